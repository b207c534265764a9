// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var stores = []server{{
	name: "redis", version: []string{"redis-server", "--version"},
	start: func(m *machine) netip.AddrPort {
		return m.start(6379, "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", m.dir)
	},
	uses: []use{
		{client: "redis-cli --tls, a value of 100 MB", run: bigValue},
		{client: "redis-cli --tls --pipe, 100,000 commands", run: pipeline},
		{client: "redis-cli --tls subscribe, 1,000 messages", run: subscribe},
		{client: "redis-benchmark --tls -c 20 -P 16", run: redisBenchmark},
		{client: "redis-cli by TCP", tcp: true, run: func(t *testing.T, g *gateway) int64 {
			return valueThrough(t, 10<<20, "redis-cli", "-e", "-h", name, "-p", g.tcp)
		}},
	},
}}

// redis is a command line of redis-cli or redis-benchmark.
func (g *gateway) redis(words ...string) []string {
	return append([]string{"-h", name, "-p", g.tls, "--tls", "--sni", name, "--cacert", g.ca}, words...)
}

func bigValue(t *testing.T, g *gateway) int64 {
	return valueThrough(t, 100<<20, "redis-cli", append([]string{"-e"}, g.redis()...)...)
}

// valueThrough sets a value and gets it.
func valueThrough(t *testing.T, size int, program string, arguments ...string) int64 {
	value := random(size)
	path := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(path, value, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set := exec.CommandContext(t.Context(), program, append(arguments, "-x", "set", "big")...)
	set.Stdin = f
	if out, err := set.CombinedOutput(); err != nil || string(out) != "OK\n" {
		t.Fatalf("set: %v: %.100s", err, out)
	}
	got := client(t, "", program, append(arguments, "get", "big")...)
	if got != string(value)+"\n" {
		t.Fatalf("%d bytes came back with MD5 %x, want %d with %x", len(got), md5.Sum([]byte(got)), size+1, md5.Sum(append(value, '\n')))
	}
	return 2 * int64(size)
}

func pipeline(t *testing.T, g *gateway) int64 {
	const commands = 100_000
	var in bytes.Buffer
	for i := range commands {
		key, value := fmt.Sprintf("key:%d", i), fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, i)))
		fmt.Fprintf(&in, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value)
	}
	sent := int64(in.Len())
	out := client(t, in.String(), "redis-cli", g.redis("--pipe")...)
	if !strings.Contains(out, fmt.Sprintf("errors: 0, replies: %d", commands)) {
		t.Fatalf("redis-cli says %s", out)
	}
	// All of them at once; redis-cli prints a line for each.
	keys := []string{"mget"}
	for i := range 10_000 {
		keys = append(keys, fmt.Sprintf("key:%d", i*10))
	}
	got := strings.Fields(client(t, "", "redis-cli", g.redis(keys...)...))
	for i, value := range got {
		if want := fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, i*10))); value != want {
			t.Fatalf("key:%d is %s, want %s", i*10, value, want)
		}
	}
	if len(got) != 10_000 {
		t.Errorf("%d values", len(got))
	}
	return sent + int64(len(got)*32)
}

func subscribe(t *testing.T, g *gateway) int64 {
	const messages = 1000
	hear := exec.CommandContext(t.Context(), "redis-cli", g.redis("subscribe", "news")...)
	heard, err := hear.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hear.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hear.Process.Kill(); _ = hear.Wait() }()
	next := lines(t, heard)
	for _, want := range []string{"subscribe", "news", "1"} {
		if got := next(); got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	var in strings.Builder
	for i := range messages {
		fmt.Fprintf(&in, "publish news %x\n", md5.Sum(fmt.Append(nil, i)))
	}
	if out := client(t, in.String(), "redis-cli", g.redis()...); strings.Count(out, "1\n") != messages {
		t.Fatalf("redis-cli says %.200s", out)
	}
	for i := range messages {
		for _, want := range []string{"message", "news", fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, i)))} {
			if got := next(); got != want {
				t.Fatalf("message %d: heard %q, want %q", i, got, want)
			}
		}
	}
	return messages * 32
}

func redisBenchmark(t *testing.T, g *gateway) int64 {
	out := client(t, "", "redis-benchmark", g.redis("-c", "20", "-P", "16", "-n", "20000", "-d", "1000", "-r", "1000", "-t", "set,get,lpush,lpop", "--csv")...)
	if n := strings.Count(out, "\n"); n < 5 || strings.Contains(out, "rror") {
		t.Fatalf("redis-benchmark says %s", out)
	}
	return 0
}

// random is text that nobody has by chance.
func random(n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	const digits = "0123456789abcdef"
	for i := range b {
		b[i] = digits[b[i]&15]
	}
	return b
}
