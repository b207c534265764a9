// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// programClient runs a load program against a gateway.
type programClient struct {
	program     Program
	connections int
	dialer      *dialer
	wrapper     net.Listener // where programs connect that do not speak TLS, or not by name
	carried     sync.WaitGroup
	root        string // file with the authority's certificate
}

// newProgramClient listens for its programs. The caller closes it.
func newProgramClient(d *dialer, s Scenario) (*programClient, error) {
	c := &programClient{program: s.Program, connections: s.Connections, dialer: d}
	f, err := os.CreateTemp("", "sluice-bench-root-")
	if err != nil {
		return nil, err
	}
	c.root = f.Name()
	_, err = f.Write(d.target.Root)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(c.root))
	}
	if c.wrapper, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, os.Remove(c.root))
	}
	c.carried.Go(func() {
		for {
			conn, err := c.wrapper.Accept()
			if err != nil {
				return
			}
			c.carried.Go(func() { c.wrap(conn) })
		}
	})
	return c, nil
}

// wrap carries a program's connection over TLS.
func (c *programClient) wrap(plain net.Conn) {
	defer plain.Close()
	secure, _, err := c.dialer.dial()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: for %s: %v\n", c.program, err)
		return
	}
	defer secure.Close()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(secure, plain)
		if half, ok := secure.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(plain, secure)
	_ = plain.(*net.TCPConn).CloseWrite()
	up.Wait()
}

func (c *programClient) Close() error {
	err := errors.Join(c.wrapper.Close(), os.Remove(c.root))
	c.carried.Wait()
	return err
}

// work does count of what the program does, over all connections together, and
// fails when the program did not do, or not get, all of it.
func (c *programClient) work(count int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	each := count / int64(c.connections)
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	_, port, err := net.SplitHostPort(c.wrapper.Addr().String())
	if err != nil {
		return err
	}
	// The ends of connections belong to the work.
	defer time.Sleep(100 * time.Millisecond)
	switch c.program {
	case Pgbench:
		out, err := command(ctx, "", postgres("pgbench"), "-n", "-S", "-h", "127.0.0.1", "-p", port, "-U", "postgres",
			"-c", strconv.Itoa(c.connections), "-t", number(each), "postgres")
		want := fmt.Sprintf("processed: %d/%[1]d\n", each*int64(c.connections))
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("pgbench does not say %q: %s", want, out)
		}
		return err
	case RedisBenchmark:
		at := c.dialer.target
		// The suite is the only one that the other clients take, too.
		out, err := command(ctx, "", "redis-benchmark", "-h", at.Address.Addr().String(), "-p", strconv.Itoa(int(at.Address.Port())),
			"--tls", "--sni", at.ServerNames[0], "--cacert", c.root, "--tls-ciphersuites", "TLS_AES_128_GCM_SHA256",
			"-c", strconv.Itoa(c.connections), "-n", number(each*int64(c.connections)), "-d", "100", "-t", "set")
		want := fmt.Sprintf("%d requests completed", each*int64(c.connections))
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("redis-benchmark does not say %q: %s", want, out)
		}
		return err
	case Mosquitto:
		pairs := c.connections / 2
		return inParallel(pairs, func(int) error { return c.messages(ctx, port, count/int64(pairs)) })
	}
	return fmt.Errorf("no client for %q", c.program)
}

// messages has a publisher send lines of a keyed stream, and checks what a
// subscriber gets.
func (c *programClient) messages(ctx context.Context, port string, count int64) error {
	key := rand.Uint64()
	stream := keyed.New(key)
	var sent bytes.Buffer
	raw := make([]byte, 50)
	for range count {
		_, _ = stream.Read(raw)
		sent.WriteString(hex.EncodeToString(raw) + "\n")
	}
	topic := strconv.FormatUint(key, 36)
	at := []string{"-h", "127.0.0.1", "-p", port, "-q", "1", "-t", topic}
	session := append([]string{"-c", "-i", topic}, at...)
	// The broker keeps what comes before the subscriber is back.
	if _, err := command(ctx, "", "mosquitto_sub", append(session, "-E")...); err != nil {
		return err
	}
	var got string
	err := inParallel(2, func(i int) (err error) {
		if i == 0 {
			_, err = command(ctx, sent.String(), "mosquitto_pub", append([]string{"-l"}, at...)...)
			return err
		}
		got, err = command(ctx, "", "mosquitto_sub", append(session, "-C", strconv.FormatInt(count, 10))...)
		return err
	})
	if err == nil && got != sent.String() {
		err = fmt.Errorf("%d bytes of messages came back as %d others", sent.Len(), len(got))
	}
	return err
}

// command runs a program and returns what it printed.
func command(ctx context.Context, input, program string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, arguments...)
	var out, complaints bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaints
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s%s", program, err, &complaints, &out)
	}
	return out.String(), err
}
