// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"crypto/md5"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

const postgresPrograms = "/usr/lib/postgresql/15/bin/"

// The clients of PostgreSQL 15 and MariaDB ask in the clear whether the server
// wants TLS, and do not begin with it; so socat speaks TLS for them. pgx begins with
// it, as those of PostgreSQL 17 do.
var databases = []server{{
	name: "postgresql", version: []string{postgresPrograms + "postgres", "--version"},
	start: func(m *machine) netip.AddrPort {
		data := m.dir + "/data"
		m.must("setpriv", postgres(postgresPrograms+"initdb", "-D", data, "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "--no-sync")...)
		m.must("sh", "-c", "echo 'host all all 0.0.0.0/0 trust' >>data/pg_hba.conf")
		return m.start(5432, "setpriv", postgres(postgresPrograms+"postgres", "-D", data, "-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off")...)
	},
	uses: []use{
		{client: "psql through socat, rows and COPY", run: func(t *testing.T, g *gateway) int64 { return psql(t, g.wrap()) }},
		{client: "pgx, sslnegotiation=direct, rows, COPY and a value of 16 MB", alpn: "postgresql", run: direct},
		{client: "pgbench through socat, 8 clients", run: func(t *testing.T, g *gateway) int64 { return pgbench(t, g.wrap()) }},
		{client: "psql by TCP", tcp: true, run: func(t *testing.T, g *gateway) int64 { return psql(t, g.tcp) }},
		{client: "pgbench by TCP, 8 clients", tcp: true, run: func(t *testing.T, g *gateway) int64 { return pgbench(t, g.tcp) }},
	},
}, {
	name: "mariadb", version: []string{"mariadbd", "--version"},
	start: func(m *machine) netip.AddrPort {
		return m.start(3306, "mariadbd", "--no-defaults", "--user=root", "--datadir="+m.dir, "--skip-grant-tables", "--lc-messages-dir=/usr/share/mysql",
			"--socket="+m.dir+"/socket", "--pid-file="+m.dir+"/pid", "--skip-name-resolve", "--bind-address=0.0.0.0", "--port=3306", "--max-allowed-packet=64M")
	},
	uses: []use{
		{client: "mariadb through socat, rows and a value of 16 MB", run: func(t *testing.T, g *gateway) int64 { return mariadb(t, g.wrap()) }},
		{client: "mariadb by TCP", tcp: true, run: func(t *testing.T, g *gateway) int64 { return mariadb(t, g.tcp) }},
	},
}}

// wrap has socat speak TLS with the gateway for a client that cannot, until the
// test ends, and returns the port where it listens.
func (g *gateway) wrap() string {
	g.t.Helper()
	port := freePort(g.t)
	cmd := exec.Command("socat", "TCP-LISTEN:"+port+",bind=127.0.0.1,reuseaddr,fork",
		fmt.Sprintf("OPENSSL:127.0.0.1:%s,snihost=%s,commonname=%[2]s,cafile=%[3]s", g.tls, name, g.ca))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		g.t.Fatal(err)
	}
	// To connect would be a connection of the gateway's.
	eventually(g.t, "socat listens", func() error {
		sockets, err := os.ReadFile("/proc/thread-self/net/tcp")
		if listens := fmt.Sprintf(" 0100007F:%04X 00000000:0000 0A ", n); err == nil && !strings.Contains(string(sockets), listens) {
			err = errors.New("it does not")
		}
		return err
	})
	return port
}

// rows wants a number of them, each with its MD5.
func rows(t *testing.T, n int, separator, out string) int64 {
	t.Helper()
	all := strings.Split(strings.TrimSpace(out), "\n")
	if len(all) != n {
		t.Fatalf("%d rows, want %d", len(all), n)
	}
	for i, row := range all {
		if want := fmt.Sprintf("%d%s%x", i+1, separator, md5.Sum(fmt.Append(nil, i+1))); row != want {
			t.Fatalf("row %q, want %q", row, want)
		}
	}
	return int64(len(out))
}

func psql(t *testing.T, port string) int64 {
	const many = 100_000
	to := fmt.Sprintf("host=127.0.0.1 port=%s user=postgres sslmode=disable dbname=postgres", port)
	ask := func(input string, arguments ...string) string {
		t.Helper()
		return client(t, input, "psql", append([]string{"-X", "-v", "ON_ERROR_STOP=1", "-tA", to}, arguments...)...)
	}
	checked := rows(t, many, "|", ask("", "-c", fmt.Sprintf("select g, md5(g::text) from generate_series(1,%d) g", many)))
	for i := range 20 {
		if got, want := ask("", "-c", fmt.Sprintf("select %d", i)), fmt.Sprintf("%d\n", i); got != want {
			t.Fatalf("psql says %q, want %q", got, want)
		}
	}
	// Back by COPY what came by it.
	var in strings.Builder
	in.WriteString("drop table if exists t; create table t (n int, m text);\n\\copy t from pstdin\n")
	for i := range many {
		fmt.Fprintf(&in, "%d\t%x\n", i+1, md5.Sum(fmt.Append(nil, i+1)))
	}
	in.WriteString("\\.\n")
	ask(in.String(), "-f", "-")
	return checked + int64(in.Len()) + rows(t, many, "\t", ask("", "-c", `\copy (select * from t order by n) to stdout`))
}

// pgbench adds the same amounts to an account, its teller and its branch in each
// transaction, so the sums must agree.
func pgbench(t *testing.T, port string) int64 {
	bench := func(arguments ...string) string {
		t.Helper()
		return client(t, "", postgresPrograms+"pgbench", append([]string{"-h", "127.0.0.1", "-p", port, "-U", "postgres"}, append(arguments, "postgres")...)...)
	}
	bench("-i", "-q", "-s", "1")
	if out := bench("-c", "8", "-j", "2", "-t", "250", "-M", "prepared"); !strings.Contains(out, "actually processed: 2000/2000") || !strings.Contains(out, "failed transactions: 0") {
		t.Fatalf("pgbench says %s", out)
	}
	out := client(t, "", "psql", "-XtA", fmt.Sprintf("host=127.0.0.1 port=%s user=postgres sslmode=disable dbname=postgres", port), "-c",
		`select (select count(*) from pgbench_history) = 2000 and
		 (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) and
		 (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history) and
		 (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)`)
	if out != "t\n" {
		t.Errorf("the sums of pgbench do not agree: %q", out)
	}
	return 0
}

func mariadb(t *testing.T, port string) int64 {
	const many, size = 200_000, 16 << 20
	ask := func(input string, arguments ...string) string {
		t.Helper()
		return client(t, input, "mariadb", append([]string{"--no-defaults", "-h", "127.0.0.1", "-P", port, "--skip-ssl", "--max-allowed-packet=64M", "-NB"}, arguments...)...)
	}
	ask("", "-e", "create database if not exists test")
	checked := rows(t, many, "\t", ask("", "-e", fmt.Sprintf("select seq, md5(seq) from test.seq_1_to_%d", many)))
	value := string(random(size))
	ask("create or replace table test.t (v longtext);\ninsert into test.t values ('" + value + "');\n")
	if got := ask("", "-e", "select v from test.t"); got != value+"\n" {
		t.Errorf("%d bytes came back, not the %d that were sent", len(got), size)
	}
	return checked + 2*size
}
