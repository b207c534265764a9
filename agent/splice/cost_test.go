// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a process pays that has nothing to do with us: CPU time of its own for a
// connection (connect, accept, close of both ends), for a recv of one byte on
// another connection (with its send), and for the cheapest system call. Without
// programs, with them, and with sl_ioctl, which only some kernels need. The
// three take turns in each round; the figures are the least without programs, and
// the medians over the rounds of what it costs more with them.
//
//	go test -run '^$' -bench Bystander -benchtime 100x ./agent/splice
//
// On a virtual machine with AMD EPYC, Linux 6.18: a connection costs 1.7 us more
// of 52 (1.0 of it for any sockops program at all), a send and recv 0.3 us more
// of 9.2, other system calls nothing; with sl_ioctl each system call of the node
// costs 0.04 us more, or 0.14 where sl_sys_enter stands in for it.
func BenchmarkBystander(b *testing.B) {
	needRoot(b)
	ops := []string{"connection", "recv", "syscall"}
	settings := []string{"without", "with", "with-sl_ioctl"}
	ns := map[string][]float64{}
	s := &Splicer{mark: DefaultMark, log: slog.New(slog.DiscardHandler), conns: map[*Conn]struct{}{}}
	if err := s.load(defaultMaxConnections); err != nil {
		b.Fatal(err)
	}
	root, err := CgroupRoot()
	if err != nil {
		b.Fatal(err)
	}
	bystander := start(b, "bystander")
	for range b.N {
		for _, setting := range settings {
			// Loaded all the time: making and freeing maps costs more than what
			// is measured here, and goes on afterwards.
			if setting != "without" {
				if err := s.attach(root); err != nil {
					b.Fatal(err)
				}
			}
			if setting == "with-sl_ioctl" {
				if err := s.traceIoctl(); err != nil {
					b.Fatal(err)
				}
			}
			bystander.tell()
			said := strings.Fields(bystander.expect("ns"))
			for i, op := range ops {
				var v float64
				if _, err := fmt.Sscan(said[i], &v); err != nil {
					b.Fatal(err)
				}
				ns[op+"/"+setting] = append(ns[op+"/"+setting], v)
			}
			for _, l := range s.links {
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
			s.links = nil
		}
	}
	if err := bystander.stdin.Close(); err != nil {
		b.Fatal(err)
	}
	bystander.wait()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for _, op := range ops {
		without := ns[op+"/without"]
		for _, setting := range settings[1:] {
			var more []float64
			for i, v := range ns[op+"/"+setting] {
				more = append(more, v-without[i])
			}
			slices.Sort(more)
			b.ReportMetric(more[len(more)/2], op+"-"+setting+"-more-ns")
		}
		b.ReportMetric(slices.Min(without), op+"-ns")
	}
}

// bystander measures itself whenever it is told to.
func bystander() error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	a, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	b, err := l.Accept()
	if err != nil {
		return err
	}
	one := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(one); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		connection := cpu(300, func() {
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				return
			}
			d, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
			d.Close()
		})
		recv := cpu(4000, func() {
			_, _ = a.Write(one)
			_, _ = b.Read(one)
		})
		syscall := cpu(30_000, func() { unix.Getppid() })
		fmt.Println("ns", connection, recv, syscall)
	}
}

// cpu returns the process's CPU time for f, in ns.
func cpu(n int, f func()) float64 {
	now := func() time.Duration {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
		return time.Duration(ts.Nano())
	}
	start := now()
	for range n {
		f()
	}
	return float64(now()-start) / float64(n)
}
