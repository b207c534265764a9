// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/terminator"
)

// whatBrowsersGet are the paths of the page, and of what it is made of.
var whatBrowsersGet = []string{"", "?q=nobody", "events", "style.css", "script.js", "icon.svg"}

// begin asks for something and returns the answer with what it begins with: all
// of it, but of events those of the first look.
func begin(t *testing.T, c *http.Client, method, url, host string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out strings.Builder
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		out.WriteString(line)
		if err != nil || strings.HasPrefix(line, "event: connections") {
			return resp, out.String()
		}
	}
}

// Whoever makes a browser ask must know the address, and all that it gets is
// without effect and from here.
func TestThePageOnlyShows(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	own := strings.TrimSuffix(webOf(t, g), "/")
	where := []struct {
		name, base string
		client     *http.Client
	}{
		{"sluice web", own + "/", &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}},
		{"the admin socket", "http://localhost/", agent.AdminClient(g.admin())},
	}
	for _, w := range where {
		for _, path := range whatBrowsersGet {
			resp, body := begin(t, w.client, http.MethodGet, w.base+path, "")
			if resp.StatusCode != http.StatusOK || body == "" {
				t.Errorf("%s: %q: %s: %s", w.name, path, resp.Status, body)
			}
			if p := resp.Header.Get("Content-Security-Policy"); p != contentPolicy {
				t.Errorf("%s: %q has policy %q", w.name, path, p)
			}
			for _, found := range regexp.MustCompile(`(?i)<script>|<style| style=| on[a-z]+=|(src|href|action)="?([a-z]+:)?//|(?-i:url\()|@import`).FindAllString(body, -1) {
				t.Errorf("%s: %q has %q in it", w.name, path, found)
			}
			if path != "events" {
				if resp, body := begin(t, w.client, http.MethodHead, w.base+path, ""); resp.StatusCode != http.StatusOK || body != "" {
					t.Errorf("%s: HEAD %q: %s, %d bytes", w.name, path, resp.Status, len(body))
				}
			}
			for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
				if resp, _ := begin(t, w.client, method, w.base+path, ""); resp.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("%s: %s %q: %s", w.name, method, path, resp.Status)
				}
			}
			for host, want := range map[string]int{"evil.example": 421, "evil.example:80": 421, "localhost.evil.example": 421, "localhost:1": 200, "127.0.0.1": 200, "[::1]:1": 200} {
				if resp, _ := begin(t, w.client, http.MethodGet, w.base+path, host); resp.StatusCode != want {
					t.Errorf("%s: %q with Host %s: %s, want %d", w.name, path, host, resp.Status, want)
				}
			}
		}
	}
	// What is no page is kept from names, too.
	if resp, _ := begin(t, where[1].client, http.MethodGet, "http://localhost/status", "evil.example"); resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("/status with a foreign Host: %s", resp.Status)
	}
	// Others who use the machine do not know the path.
	if resp, _ := begin(t, where[0].client, http.MethodGet, own[:strings.LastIndex(own, "/")+1], ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the page is at /: %s", resp.Status)
	}
}

// keyIn finds a private key in text, in any of the forms that people print.
func keyIn(text string, der []byte) string {
	plain := strings.NewReplacer("\n", "", "\r", "", "data: ", "", "\\n", "", " ", "", ":", "").Replace(text)
	numbers := strings.ReplaceAll(text, " ", ",")
	if strings.Contains(text, "PRIVATE KEY") {
		return "PEM"
	}
	// Any part of it: three offsets, for base64 takes three bytes at a time.
	for i := 0; i+24 <= len(der); i++ {
		part := der[i : i+24]
		for form, want := range map[string]string{"bytes": string(part), "hexadecimal": hex.EncodeToString(part),
			"base64": base64.StdEncoding.EncodeToString(part), "base64 for URLs": base64.URLEncoding.EncodeToString(part)} {
			if strings.Contains(plain, want) || form == "hexadecimal" && strings.Contains(strings.ToLower(plain), want) {
				return form
			}
		}
		if strings.Contains(numbers, strings.Trim(strings.ReplaceAll(fmt.Sprintf("%d", part), " ", ","), "[]")) {
			return "numbers"
		}
	}
	return ""
}

func TestNoKeyIsShown(t *testing.T) {
	count := &figures.Figures{}
	figures.Record(t, count)
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	file, err := os.ReadFile(filepath.Join(g.dir, "conf", "certificate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)-----BEGIN PRIVATE KEY-----.*-----END PRIVATE KEY-----`).Find(file)
	block, _ := pem.Decode(regexp.MustCompile(`(?m)^ +`).ReplaceAll(text, nil))
	if block == nil {
		t.Fatalf("no key in %s", file)
	}
	// It is found where it is.
	for _, form := range []string{string(file), string(block.Bytes), fmt.Sprintf("%x", block.Bytes), fmt.Sprintf("% X", block.Bytes[3:]), fmt.Sprintf("%d", block.Bytes[30:]),
		base64.StdEncoding.EncodeToString(block.Bytes[1:]), base64.URLEncoding.EncodeToString(block.Bytes[2:])} {
		if keyIn(strings.ReplaceAll(form, "PRIVATE KEY", ""), block.Bytes) == "" {
			t.Fatalf("the key is not found in %q", form)
		}
	}
	c := agent.AdminClient(g.admin())
	for _, path := range append([]string{"overview", "status", "connections", "certificates", "routes"}, whatBrowsersGet...) {
		resp, body := begin(t, c, http.MethodGet, "http://localhost/"+path, "")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%q: %s", path, resp.Status)
		}
		if (path == "overview" || path == "") && !strings.Contains(body, "default/certificate") {
			t.Errorf("%q does not show the certificate: %s", path, body)
		}
		if form := keyIn(body, block.Bytes); form != "" {
			count.Failures++
			t.Errorf("%q shows the key as %s: %s", path, form, body)
		}
		count.Bytes += int64(len(body))
	}
}

func TestThePageWithoutScript(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	c, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c)
	url := webOf(t, g)
	get := func(search string) string {
		_, body := begin(t, http.DefaultClient, http.MethodGet, url+"?q="+search, "")
		return body
	}
	body := get("")
	if !strings.Contains(body, `<noscript><meta http-equiv="refresh"`) {
		t.Error("nothing loads the page anew")
	}
	client := c.LocalAddr().String()
	eventually(t, "the connection and its rate", func() bool {
		body = get(client)
		return strings.Contains(body, `data-name="Client">`+client) && regexp.MustCompile(`↑ <b>[1-9]`).MatchString(body)
	})
	if body := get("TLSRoute%2Fdefault%2Ftest+" + strings.ToUpper(serverName)); !strings.Contains(body, client) {
		t.Errorf("not found by route and server name: %s", body)
	}
	if body := get("nobody"); strings.Contains(body, `data-name="Client"`) || !strings.Contains(body, "0 of 1 open connections match") {
		t.Errorf("found by another name: %s", body)
	}
}

// Names come from clients: what is in them is text.
func TestNamesAreTextOnThePage(t *testing.T) {
	evil := "<img src=x onerror=alert(1)>\r\n\r\nevent: head\rdata: gone\n\ndata: gone"
	v := &view{now: time.Now()}
	n := &nodeOverview{}
	n.overview.Connections = []terminator.Connection{{SNI: evil, Path: "relay"}}
	n.overview.Matches, n.overview.Open = 1, 1
	n.overview.Status.Listeners = []agent.ListenerStatus{{Name: "a/b/c", Problem: evil}}
	v.add(n)
	v.finish(&history{window: time.Second})
	var out bytes.Buffer
	sent := map[string]string{}
	if err := sendChanges(&out, v, sent); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "<img src=x") {
		t.Errorf("not escaped: %s", &out)
	}
	var names []string
	for _, event := range regexp.MustCompile(`\r\n\r\n|\n\n|\r\r`).Split(strings.TrimSpace(out.String()), -1) {
		for i, line := range regexp.MustCompile(`\r\n|\n|\r`).Split(event, -1) {
			if name, ok := strings.CutPrefix(line, "event: "); ok == (i > 0) || !ok && !strings.HasPrefix(line, "data: ") {
				t.Errorf("line %d of an event is %q", i, line)
			} else if ok {
				names = append(names, name)
			}
		}
	}
	if fmt.Sprint(names) != fmt.Sprint(sections) {
		t.Errorf("events %q, want %q", names, sections)
	}
	script, err := webFiles.ReadFile("web/script.js")
	if listened := `const names = ["` + strings.Join(sections, `", "`) + `"];`; err != nil || !strings.Contains(string(script), listened) {
		t.Errorf("the script does not listen to all of them: no %s, %v", listened, err)
	}
	out.Reset()
	if err := sendChanges(&out, v, sent); err != nil || out.String() != ":\n\n" {
		t.Errorf("nothing has changed, and yet there is %q, %v", out.String(), err)
	}
}

func TestRatesAreOfWhatHasGrown(t *testing.T) {
	h := history{window: 4 * time.Second}
	start := time.Now()
	at := func(second int, connections uint64, up int64) *counts {
		o := &agent.Overview{At: start.Add(time.Duration(second) * time.Second), Traffic: []terminator.Flow{
			{Listener: "l", Open: 1, Connections: connections, Bytes: map[string]terminator.Bytes{"spliced": {Up: up, Down: 2 * up}, "relay": {Up: 100}}}}}
		if second >= 100 {
			o.Status.Started = start // another process
		}
		return countsOf(&o.Traffic[0], h.since("n", o), o.At)
	}
	for _, c := range []struct {
		second      int
		connections uint64
		up          int64
		known       bool
		perSecond   float64
		rate        float64
	}{
		{0, 5, 100, false, 0, 0},
		{1, 7, 200, true, 2, 100},
		{4, 7, 500, true, .5, 100},
		{5, 7, 1000, true, 0, 200}, // since second 1
		{20, 7, 2500, true, 0, 100},
		{21, 1, 10, true, 0, 0}, // forgotten, and begun anew
		{100, 1000, 1000, false, 0, 0},
		{102, 1000, 1000, true, 0, 0},
	} {
		f := at(c.second, c.connections, c.up)
		if f.Known != c.known || f.PerSecond != c.perSecond || f.Up != c.rate || f.Down != 2*c.rate {
			t.Errorf("second %d: %+v, want %+v", c.second, f, c)
		}
	}
	f := at(103, 1000, 1300)
	if got, want := fmt.Sprint(f.Shares()), "[{spliced 0 100 100}]"; got != want {
		t.Errorf("shares of late: %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(countsOf(&terminator.Flow{Bytes: map[string]terminator.Bytes{"relay": {Up: 1}, "spliced": {Down: 2}}}, nil, start).Shares()),
		"[{spliced 0 66 67} {relay 66 34 33}]"; got != want {
		t.Errorf("shares since the start: %s, want %s", got, want)
	}
}

func TestWebServesThisMachineOnly(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:80", "127.0.0.1"} {
		out, err := exec.Command("sluice", "web", "-admin", g.admin(), "-listen", address).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "no loopback address") {
			t.Errorf("%s: %v, %s", address, err, out)
		}
	}
	out, err := exec.Command("sluice", "web", "-admin", g.admin(), "-o", "json").Output()
	var o agent.Overview
	if err != nil || json.Unmarshal(out, &o) != nil || len(o.Status.Listeners) != 1 || len(o.Traffic) != 1 {
		t.Errorf("-o json: %v, %s", err, out)
	}
	if out, err := exec.Command("sluice", "web", "-admin", filepath.Join(t.TempDir(), "none")).CombinedOutput(); err == nil || !strings.Contains(string(out), "no gateway answers") {
		t.Errorf("without a gateway: %v, %s", err, out)
	}
}
