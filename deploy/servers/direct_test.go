// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// direct is a client of PostgreSQL that begins with TLS and its own name for ALPN.
func direct(t *testing.T, g *gateway) int64 {
	const many, size, connections = 100_000, 16 << 20, 8
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var checked int64
	for i := range connections {
		c := g.postgres(ctx)
		state := c.PgConn().Conn().(*tls.Conn).ConnectionState()
		if state.NegotiatedProtocol != "postgresql" {
			t.Errorf("the gateway agreed on %q", state.NegotiatedProtocol)
		}
		if i == 0 {
			checked += g.rowsAndCopy(ctx, c, many) + g.bigText(ctx, c, size)
		}
		for n := range 20 {
			var got int
			if err := c.QueryRow(ctx, "select $1::int", n).Scan(&got); err != nil || got != n {
				t.Fatalf("select %d: %d, %v", n, got, err)
			}
		}
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return checked
}

func (g *gateway) postgres(ctx context.Context) *pgx.Conn {
	g.t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=verify-full sslrootcert=%s sslnegotiation=direct", name, g.tls, g.ca))
	if err != nil {
		g.t.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// rowsAndCopy reads rows, and gets back by COPY what went there by COPY.
func (g *gateway) rowsAndCopy(ctx context.Context, c *pgx.Conn, many int) int64 {
	g.t.Helper()
	var want, out bytes.Buffer
	for i := range many {
		fmt.Fprintf(&want, "%d\t%x\n", i+1, md5.Sum(fmt.Append(nil, i+1)))
	}
	rows, err := c.Query(ctx, "select g, md5(g::text) from generate_series(1, $1::int) g", many)
	if err != nil {
		g.t.Fatal(err)
	}
	for rows.Next() {
		var n int
		var m string
		if err := rows.Scan(&n, &m); err != nil {
			g.t.Fatal(err)
		}
		fmt.Fprintf(&out, "%d\t%s\n", n, m)
	}
	if err := rows.Err(); err != nil || !bytes.Equal(out.Bytes(), want.Bytes()) {
		g.t.Fatalf("%d bytes of rows, want %d: %v", out.Len(), want.Len(), err)
	}
	out.Reset()
	_, err = c.Exec(ctx, "create temporary table t (n int, m text)")
	if err == nil {
		_, err = c.PgConn().CopyFrom(ctx, bytes.NewReader(want.Bytes()), "copy t from stdin")
	}
	if err == nil {
		_, err = c.PgConn().CopyTo(ctx, &out, "copy (select * from t order by n) to stdout")
	}
	if err != nil || !bytes.Equal(out.Bytes(), want.Bytes()) {
		g.t.Fatalf("%d bytes of COPY, want %d: %v", out.Len(), want.Len(), err)
	}
	return 3 * int64(want.Len())
}

// bigText has a value sent back.
func (g *gateway) bigText(ctx context.Context, c *pgx.Conn, size int) int64 {
	g.t.Helper()
	value := string(random(size))
	var got string
	if err := c.QueryRow(ctx, "select $1::text", value).Scan(&got); err != nil || got != value {
		g.t.Fatalf("%d bytes came back, not the %d that were sent: %v", len(got), size, err)
	}
	return 2 * int64(size)
}
