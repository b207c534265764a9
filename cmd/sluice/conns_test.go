// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestConnsShowsWhoTalksToWhom(t *testing.T) {
	backend := serveTCP(t, echo)
	g := launch(t, backend, nil, "-splice", "off")
	c, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(c.LocalAddr().String()) + ` +` + serverName + ` +TLSRoute/default/test +` +
		regexp.QuoteMeta(backend.String()) + ` +4\.88Ki +4\.88Ki +\d+s +TLS 1\.3 +relay `)
	out, err := exec.Command("sluice", "conns", "-admin", g.admin()).CombinedOutput()
	if err != nil || !row.Match(out) {
		t.Errorf("%v\n%s", err, out)
	}

	// Watching shows it again and again until it is interrupted.
	watch := exec.Command("sluice", "conns", "-w", "-admin", g.admin())
	shown, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	for buf := make([]byte, 4096); len(row.FindAll(seen.Bytes(), -1)) < 2; {
		n, err := shown.Read(buf)
		if err != nil {
			t.Fatalf("%v\n%s", err, seen.Bytes())
		}
		seen.Write(buf[:n])
	}
	if err := watch.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := watch.Wait(); err != nil {
		t.Errorf("conns -w: %v", err)
	}
}

func TestConnsNamesClientsWithCertificates(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 10, 0, time.UTC)
	for _, tt := range []struct{ in, want string }{
		{`[{"id":1,"client":"192.0.2.1:5","start":"2027-01-01T00:00:00Z","up":1,"down":2}]`,
			"CLIENT       SNI  ROUTE  ENDPOINT  UP  DOWN  AGE  TLS  PATH  REASON\n192.0.2.1:5  -    -      -         1   2     10s  -    -     -\n"},
		{`[{"id":1,"client":"192.0.2.1:5","start":"2027-01-01T00:00:00Z","up":1,"down":2,"clientCertificate":"CN=alice"},
		   {"id":2,"client":"192.0.2.1:6","start":"2027-01-01T00:00:00Z","up":1,"down":2,"clientCertificate":"CN=bob","clientCertificateProblem":"expired"},
		   {"id":3,"client":"192.0.2.1:7","start":"2027-01-01T00:00:00Z","up":1,"down":2}]`,
			"CLIENT       SNI  ROUTE  ENDPOINT  UP  DOWN  AGE  TLS  PATH  REASON  CERTIFICATE\n" +
				"192.0.2.1:5  -    -      -         1   2     10s  -    -     -       CN=alice\n" +
				"192.0.2.1:6  -    -      -         1   2     10s  -    -     -       CN=bob (not verified: expired)\n" +
				"192.0.2.1:7  -    -      -         1   2     10s  -    -     -       -\n"},
		{`[{"id":1,"client":"192.0.2.1:5","start":"2027-01-01T00:00:00Z","up":1,"down":2,"sni":"\u001b[2J\u0007\tx\ny"}]`,
			"CLIENT       SNI        ROUTE  ENDPOINT  UP  DOWN  AGE  TLS  PATH  REASON\n192.0.2.1:5  ?[2J? x y  -      -         1   2     10s  -    -     -\n"},
	} {
		var out strings.Builder
		if err := printConnections(&out, []byte(tt.in), now); err != nil || out.String() != tt.want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, out.String(), tt.want)
		}
	}
}

func TestSizesHaveThreeDigits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1023: "1023", 1024: "1Ki", 5000: "4.88Ki", 999 << 10: "999Ki", 1000 << 10: "0.977Mi", 1 << 30: "1Gi", 5 << 40: "5Ti",
	} {
		if got := size(n); strings.TrimSpace(got) != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
