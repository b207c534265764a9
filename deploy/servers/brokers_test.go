// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"crypto/md5"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

var brokers = []server{{
	name: "mosquitto", version: []string{"sh", "-c", "mosquitto -h | head -n 1"},
	start: func(m *machine) netip.AddrPort {
		return m.start(1883, "mosquitto", "-c", m.file("conf", "listener 1883\nallow_anonymous true\nmax_queued_messages 0\nuser root\n"))
	},
	uses: []use{
		{client: "mosquitto_pub -l and mosquitto_sub --cafile, QoS 2, 10,000 messages", run: published},
		{client: "paho and mosquitto_sub, QoS 2, 10,000 retained messages", run: retained},
	},
}, {
	name: "nats", version: []string{"nats-server", "--version"},
	start: func(m *machine) netip.AddrPort {
		return m.start(4222, "nats-server", "-a", "0.0.0.0", "-p", "4222")
	},
	uses: []use{{client: "nats.go, 10,000 messages and 2,000 requests", run: throughNATS}},
}, {
	name: "rabbitmq", version: []string{"dpkg-query", "-W", "-f", "RabbitMQ ${Version}", "rabbitmq-server"},
	start: func(m *machine) netip.AddrPort {
		m.t.Setenv("HOME", m.dir) // of the cookie
		for key, value := range map[string]string{"NODENAME": "sluice@localhost", "MNESIA_BASE": m.dir, "LOG_BASE": m.dir, "CONFIG_FILE": m.dir + "/rabbitmq",
			"ENABLED_PLUGINS_FILE": m.file("plugins", "[].\n"), "NODE_IP_ADDRESS": site.address.String(), "PID_FILE": m.dir + "/pid"} {
			m.t.Setenv("RABBITMQ_"+key, value)
		}
		m.file("rabbitmq.conf", "loopback_users = none\n") // guest may come from elsewhere
		m.start(4369, "epmd")                              // else Erlang leaves one behind
		return m.start(5672, "/usr/lib/rabbitmq/bin/rabbitmq-server")
	},
	uses: []use{{client: "pika, AMQP over TLS, 3,000 messages", run: func(t *testing.T, g *gateway) int64 {
		return printed(t, client(t, "", debianPython, "testdata/amqp.py", name, g.tls, g.ca, "3000"))
	}}},
}}

// debianPython is the one that Debian's packages of libraries are for.
const debianPython = "/usr/bin/python3"

// printed is the number that a program has printed.
func printed(t *testing.T, out string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (g *gateway) mqtt(words ...string) []string {
	return append([]string{"-h", name, "-p", g.tls, "--cafile", g.ca, "-q", "2"}, words...)
}

func message(i int) string { return fmt.Sprintf("%d %x", i, md5.Sum(fmt.Append(nil, i))) }

func published(t *testing.T, g *gateway) int64 {
	const messages = 10_000
	sub := exec.CommandContext(t.Context(), "mosquitto_sub", g.mqtt("-t", "news", "-C", strconv.Itoa(messages+1))...)
	heard, err := sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Process.Kill(); _ = sub.Wait() }()
	next := lines(t, heard)
	// A retained message tells that it has subscribed.
	client(t, "", "mosquitto_pub", g.mqtt("-t", "news", "-r", "-m", "first")...)
	defer client(t, "", "mosquitto_pub", g.mqtt("-t", "news", "-r", "-n")...)
	if got := next(); got != "first" {
		t.Fatalf("heard %q", got)
	}
	var in strings.Builder
	for i := range messages {
		in.WriteString(message(i) + "\n")
	}
	client(t, in.String(), "mosquitto_pub", g.mqtt("-t", "news", "-l")...)
	for i := range messages {
		if got, want := next(), message(i); got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	return int64(in.Len())
}

func retained(t *testing.T, g *gateway) (checked int64) {
	const messages = 10_000
	if n := printed(t, client(t, "", debianPython, "testdata/retain.py", name, g.tls, g.ca, strconv.Itoa(messages))); n != messages {
		t.Fatalf("%d of %d messages were retained", n, messages)
	}
	out := client(t, "", "mosquitto_sub", g.mqtt("-t", "retained/#", "-C", strconv.Itoa(messages), "-W", "120", "-F", "%t %r %p")...)
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		var topic, flag, number, sum string
		if _, err := fmt.Sscan(line, &topic, &flag, &number, &sum); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if i, err := strconv.Atoi(number); err != nil || flag != "1" || topic != "retained/"+number || number+" "+sum != message(i) {
			t.Fatalf("a wrong message: %q", line)
		}
		seen[topic] = true
	}
	if len(seen) != messages {
		t.Errorf("%d topics, want %d", len(seen), messages)
	}
	return int64(len(out))
}

// tlsFirst begins with TLS. (With its option TLSHandshakeFirst nats.go wants the
// server to say that it speaks TLS, too.)
type tlsFirst struct{ g *gateway }

// Dial implements nats.CustomDialer.
func (d tlsFirst) Dial(_, _ string) (net.Conn, error) { return d.g.dial() }

func throughNATS(t *testing.T, g *gateway) (checked int64) {
	const messages, requests = 10_000, 2000
	dial := func() *nats.Conn {
		t.Helper()
		c, err := nats.Connect("nats://"+name+":"+g.tls, nats.SetCustomDialer(tlsFirst{g}), nats.Timeout(time.Minute), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	from, to := dial(), dial()
	defer from.Close()
	defer to.Close()
	sub, err := to.SubscribeSync("news")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := to.Flush(); err != nil {
		t.Fatal(err)
	}
	filler := string(random(1000))
	for i := range messages {
		if err := from.Publish("news", []byte(message(i)+filler)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages {
		m, err := sub.NextMsg(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != message(i)+filler {
			t.Fatalf("message %d is %q", i, m.Data)
		}
		checked += int64(len(m.Data))
	}
	for i := range requests {
		m, err := from.Request("echo", []byte(message(i)), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != message(i) {
			t.Fatalf("answer %d is %q", i, m.Data)
		}
		checked += int64(len(m.Data))
	}
	return checked
}
