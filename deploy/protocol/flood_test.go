// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// flood is what an attacker repeats after its handshake.
type flood struct {
	name    string
	version uint16
	unit    func(a *attacker, dst []byte) []byte
	data    int // bytes of it in a unit
	units   int // of a flood that nobody ends
	// endless are the subjects that do not end it.
	endless []string
}

var everybody = []string{gateway.name, noRecord.name, noEventLoop.name, reference.name}

// without the record loop, crypto/tls counts what is in a row.
var cryptoTLS = []string{noRecord.name, reference.name}

func keyUpdates(a *attacker, dst []byte) []byte { return a.keyUpdate(dst, 1) }
func empty(a *attacker, dst []byte) []byte      { return a.record(dst, data) }
func one(a *attacker, dst []byte) []byte        { return a.record(dst, data, 'x') }
func canceled(a *attacker, dst []byte) []byte   { return a.record(dst, alert, 1, 90) }
func noRenegotiation(a *attacker, dst []byte) []byte {
	return a.record(dst, alert, 1, 100)
}

func change(_ *attacker, dst []byte) []byte {
	return append(dst, changeCipherSpec, 3, 3, 0, 1, 1)
}

// and has one byte of data after n units of another flood.
func and(n int, unit func(*attacker, []byte) []byte) func(*attacker, []byte) []byte {
	return func(a *attacker, dst []byte) []byte {
		for range n {
			dst = unit(a, dst)
		}
		return one(a, dst)
	}
}

// padded is a byte of data in a record of full size.
func padded(a *attacker, dst []byte) []byte {
	content := append([]byte("x"), data)
	return a.record(dst, 0, append(content, make([]byte, 16<<10-2)...)...)
}

// helloAgain asks for another handshake.
func helloAgain(a *attacker, dst []byte) []byte {
	hello := []byte{1, 0, 0, 41, 3, 3}
	hello = append(hello, make([]byte, 33)...) // random, no session
	return a.record(dst, handshake, append(hello, 0, 2, 0xc0, 0x2b, 1, 0)...)
}

var floods = []flood{
	{"KeyUpdates", tls.VersionTLS13, keyUpdates, 0, 1 << 10, nil},
	{"KeyUpdates, each with a byte of data", tls.VersionTLS13, and(1, keyUpdates), 1, 1 << 15, cryptoTLS},
	{"empty records", tls.VersionTLS13, empty, 0, 1 << 10, nil},
	{"16 empty records and a byte of data", tls.VersionTLS13, and(16, empty), 1, 1 << 15, everybody},
	{"records of one byte", tls.VersionTLS13, one, 1, 1 << 19, everybody},
	{"records of one byte and 16 KiB of padding", tls.VersionTLS13, padded, 1, 1 << 14, everybody},
	{"user_canceled alerts", tls.VersionTLS13, canceled, 0, 1 << 10, nil},
	{"16 user_canceled alerts and a byte of data", tls.VersionTLS13, and(16, canceled), 1, 1 << 15, everybody},
	{"change_cipher_spec records", tls.VersionTLS13, change, 0, 1 << 10, nil},
	{"TLS 1.2, empty records", tls.VersionTLS12, empty, 0, 1 << 10, nil},
	{"TLS 1.2, 16 empty records and a byte of data", tls.VersionTLS12, and(16, empty), 1, 1 << 15, everybody},
	{"TLS 1.2, records of one byte", tls.VersionTLS12, one, 1, 1 << 19, everybody},
	{"TLS 1.2, warning alerts", tls.VersionTLS12, noRenegotiation, 0, 1 << 10, nil},
	{"TLS 1.2, 16 warning alerts and a byte of data", tls.VersionTLS12, and(16, noRenegotiation), 1, 1 << 15, everybody},
	{"TLS 1.2, ClientHellos", tls.VersionTLS12, helloAgain, 0, 1 << 10, nil},
}

// dear is how many times the attacker's processor time a flood must not cost the
// gateway.
const dear = 10

// TestFloods repeats what costs a server something and brings it nothing. Either
// that ends the connection, or it all is carried; then what it costs the gateway must
// not be many times what it costs the attacker.
func TestFloods(t *testing.T) {
	for _, s := range []subject{gateway, noRecord, noEventLoop, reference} {
		t.Run(s.name, func(t *testing.T) {
			count := &figures.Figures{}
			figures.Record(t, count)
			got := make(chan int64)
			server := s.launch(t, counting(t, got), site.pairs[0])
			var ended int
			var carried []string
			for _, f := range floods {
				passed := t.Run(f.name, func(t *testing.T) {
					count.Connections++
					count.Faults += int64(f.units)
					if !slices.Contains(f.endless, s.name) {
						f.ended(t, server, got)
						ended++
						return
					}
					times, bytes := f.carried(t, server, got)
					t.Logf("%.1f times the attacker's processor time", times)
					if times >= dear && s.name != reference.name {
						t.Errorf("that is %d times or more", dear)
					}
					carried = append(carried, fmt.Sprintf("%s %.1f", f.name, times))
					count.Bytes += bytes
				})
				if !passed {
					count.Failures++
				}
			}
			count.What = fmt.Sprintf("%d ended; carried, in times of the attacker's processor time: %s", ended, strings.Join(carried, ", "))
		})
	}
}

// counting is a backend that says how many bytes each connection has brought.
func counting(t *testing.T, got chan<- int64) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
				got <- n
			}()
		}
	}()
	return l.Addr().String()
}

// ended floods until the server has enough.
func (f flood) ended(t *testing.T, server running, got <-chan int64) {
	a, over := f.begin(t, server)
	var batch []byte
	for range f.units {
		batch = f.unit(a, batch)
	}
	_, _ = a.raw.Write(batch)
	select {
	case <-over:
	case <-time.After(time.Minute):
		t.Fatal("not ended within a minute")
	}
	if n := receive(t, got); n >= int64(f.units) {
		t.Errorf("%d bytes arrived", n)
	}
}

// carried floods with all units, and returns how many times the attacker's
// processor time that costs, and the bytes of data.
func (f flood) carried(t *testing.T, server running, got <-chan int64) (times float64, bytes int64) {
	a, over := f.begin(t, server)
	before := cpuTime(t, server.pid)
	var attacker time.Duration
	written := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back
		var batch []byte
		write := func() error {
			_, err := a.raw.Write(batch)
			batch = batch[:0]
			return err
		}
		for range f.units {
			if batch = f.unit(a, batch); len(batch) >= 64<<10 {
				if err := write(); err != nil {
					written <- err
					return
				}
			}
		}
		batch = a.record(batch, alert, 1, 0)
		err := write()
		attacker = threadTime()
		written <- err
	}()
	if err := <-written; err != nil {
		t.Fatalf("%v, %v", err, <-over)
	}
	n := receive(t, got)
	if err := <-over; err != nil {
		t.Errorf("ended by %v", err)
	}
	cost := cpuTime(t, server.pid) - before
	if want := int64(f.units * f.data); n != want {
		t.Errorf("%d bytes arrived, want %d", n, want)
	}
	return float64(cost) / float64(attacker), n
}

// begin connects an attacker, and drops what comes until it ends.
func (f flood) begin(t *testing.T, server running) (*attacker, <-chan error) {
	t.Helper()
	a, err := attack(server.address, f.version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.raw.Close() })
	over := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{a.raw})
		over <- err
	}()
	return a, over
}

func receive(t *testing.T, got <-chan int64) int64 {
	t.Helper()
	select {
	case n := <-got:
		return n
	case <-time.After(2 * time.Minute):
		t.Fatal("the backend's connection has not ended within two minutes")
		return 0
	}
}

// cpuTime is the CPU time of a process.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers_types.h.
	clock := int32(^pid)<<3 | 2
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// threadTime is the CPU time of the calling thread, which is locked.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}
