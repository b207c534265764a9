// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// browser starts Chromium, which must not speak with anybody but the page, and
// returns what it complains about in its console until the test ends.
func browser(t *testing.T) (ctx context.Context, complaints func() []string) {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; deploy/packages.sh test installs it", err)
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(2 * time.Minute)}
	for _, flag := range []string{"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		opts = append(opts, chromedp.Flag(flag, true))
	}
	allocated, free := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, end := chromedp.NewContext(allocated)
	var reading sync.WaitGroup
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("end the browser: %v", err)
		}
		end()
		free()
		reading.Wait()
	})
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	var mu sync.Mutex
	var all []string
	messages := chromedp.Console(ctx)
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return // it has ended
			}
			if strings.Contains(m.Text, "net::ERR_NETWORK_CHANGED") {
				continue // other tests add addresses to this machine; the page asks again
			}
			mu.Lock()
			all = append(all, fmt.Sprintf("%s: %s %s", m.Type, m.Text, m.URL))
			mu.Unlock()
		}
	})
	return ctx, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// showcase is a gateway with something of everything that the page shows.
func showcase(t *testing.T, flags ...string) *gateway {
	t.Helper()
	g := launch(t, serveTCP(t, echo), nil, flags...)
	plain, through, secure := freePort(t), freePort(t), freePort(t)
	for name, left := range map[string]time.Duration{"fresh": 40 * time.Hour, "due": 8 * time.Hour, "soon": 3 * time.Hour, "old": -time.Hour} {
		c, err := newCertificate(time.Now().Add(left), name+".example.com", "*."+name+".example.com")
		if err != nil {
			t.Fatal(err)
		}
		g.write(name+".yaml", append(c.secret(name), "---\n"...))
	}
	g.write("more.yaml", fmt.Appendf(nil, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: team-b}
spec:
  gatewayClassName: sluice
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: plain, protocol: TCP, port: %s}
  - {name: through, protocol: TLS, port: %s, hostname: "*.example.org", tls: {mode: Passthrough}}
  - {name: secure, protocol: TLS, port: %s, tls: {certificateRefs: [{name: fresh, namespace: default}, {name: due, namespace: default}, {name: soon, namespace: default}, {name: old, namespace: default}]}}
  - {name: certless, protocol: HTTPS, port: 8443, hostname: www.example.com, tls: {certificateRefs: [{name: gone}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: plain, namespace: team-b}
spec:
  parentRefs: [{name: other, sectionName: plain}]
  rules: [{backendRefs: [{name: replicas, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: secure, namespace: team-b}
spec:
  parentRefs: [{name: other, sectionName: secure}]
  hostnames: [fresh.example.com]
  rules: [{backendRefs: [{name: replicas, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: team-b}]
  to: [{group: "", kind: Secret}]
---
apiVersion: v1
kind: Service
metadata: {name: replicas, namespace: team-b}
spec: {ports: [{port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: replicas-1, namespace: team-b, labels: {kubernetes.io/service-name: replicas}}
ports: [{port: %s}]
endpoints: [{addresses: [127.0.0.1]}, {addresses: [127.0.0.2]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: lost}
spec:
  parentRefs: [{name: test, sectionName: nowhere}]
  hostnames: [lost.example.com]
  rules: [{backendRefs: [{name: test, port: 1}]}]
`, plain, through, secure, port(serveTCP(t, echo))))
	eventually(t, "the mistakes are found", func() bool { return strings.Contains(g.status(), "nowhere") })
	c, err := net.Dial("tcp", "127.0.0.1:"+plain)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c)
	return g
}

// webOf starts the page of a gateway and returns its address.
func webOf(t *testing.T, g *gateway) string {
	t.Helper()
	cmd := exec.Command("sluice", "web", "-admin", g.admin(), "-listen", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("sluice web: %v", err)
		}
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// exchange sends bytes through a connection until the test ends.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { close(done); _ = c.SetDeadline(time.Now()); wg.Wait(); _ = c.Close() })
}

// The page, as a browser shows it: at the width of a telephone and of a desk, in
// light and dark.
func TestThePageInABrowser(t *testing.T) {
	count := &figures.Figures{Faults: 2, What: "mistakes, each shown with its cure; light and dark, at 400 and 1,600 pixels"}
	figures.Record(t, count)
	g := showcase(t)
	url := webOf(t, g)
	for range 3 {
		c, err := g.connect()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c)
		count.Connections++
	}
	ctx, complaints := browser(t)
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{400, 1600} {
			t.Run(fmt.Sprintf("%s at %d", theme, width), func(t *testing.T) {
				onScreen(t, ctx, g, url, theme, width)
				count.Connections++
			})
		}
	}
	for _, c := range complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

func onScreen(t *testing.T, ctx context.Context, g *gateway, url, theme string, width int64) {
	do := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	is := func(expression string) bool {
		t.Helper()
		v, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		return v
	}
	until := func(what, expression string) {
		t.Helper()
		eventually(t, what, func() bool { return is(expression) })
	}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}); err != nil {
		t.Fatal(err)
	}
	do("open the page", chromedp.EmulateViewport(width, 900), chromedp.Navigate(url))
	until("rates", `/B\/s/.test(document.querySelector(".path").textContent)`)

	// A connection that begins is shown without the page being loaded again.
	is(`window.same = true`)
	c, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.NetConn().Close()
	client := c.LocalAddr().String()
	row := fmt.Sprintf(`[...document.querySelectorAll("#connections tbody tr")].some((r) => r.textContent.includes(%q))`, client)
	until("the new connection", row)

	var status statusView
	if err := json.Unmarshal([]byte(g.status()), &status); err != nil {
		t.Fatal(err)
	}
	showsShares(t, ctx, status.Splice.On)
	showsCertificates(t, ctx)
	showsCures(t, ctx)
	readable(t, ctx)
	picture(t, ctx, "page.png")
	if !is(fmt.Sprintf(`innerWidth === %d && document.documentElement.scrollWidth <= innerWidth`, width)) {
		t.Errorf("the page scrolls sideways")
	}
	if light := is(`getComputedStyle(document.body).backgroundColor.startsWith("rgb(2")`); light != (theme == "light") {
		t.Errorf("the background is light: %v", light)
	}

	do("search", chromedp.SendKeys(chromedp.CSS("#q"), client))
	until("one row", `document.querySelectorAll("#connections tbody tr").length === 1 && `+row)
	if err := c.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	until("no row", `document.querySelectorAll("#connections tbody tr").length === 0`)
	is(`search.value = ""; find(); true`)
	until("the others", `document.querySelectorAll("#connections tbody tr").length >= 3`)
	if !is(`window.same === true`) {
		t.Error("the page was loaded again")
	}
}

// A page about several nodes: two that say the same, of connections that are not
// spliced, and one that says nothing.
func TestThePageOfSeveralNodesInABrowser(t *testing.T) {
	g := showcase(t, "-splice", "off")
	secure, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, secure)
	nodes := func(context.Context, string) ([]nodeAnswer, error) {
		raw, err := ask(g.admin(), "overview")
		return []nodeAnswer{{Node: "node-a", Answer: raw}, {Node: "node-b", Answer: raw}, {Node: "node-c", Error: "pod sluice-agent-x is Pending"}}, err
	}
	server := httptest.NewServer(newPage(subject{nodes: nodes, every: time.Second, cluster: "https://192.0.2.1:6443"}).handler())
	t.Cleanup(server.Close) // behind the browser
	ctx, complaints := browser(t)
	for _, width := range []int64{400, 1600} {
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900), chromedp.Navigate(server.URL)); err != nil {
			t.Fatal(err)
		}
		picture(t, ctx, fmt.Sprintf("nodes-%d.png", width))
		for _, want := range []string{
			fmt.Sprintf(`innerWidth === %d && document.documentElement.scrollWidth <= innerWidth`, width),
			`document.querySelectorAll("#nodes tbody tr").length === 3`,
			`document.querySelector("#nodes").textContent.includes("does not answer")`,
			`document.querySelector(".figures dd").textContent === "4"`, // open connections: two, of each
			`document.querySelector("#problems").textContent.includes("node-a, node-b: Gateway team-b/other")`,
			`document.querySelector("#problems").textContent.includes("node-c")`,
			`document.querySelectorAll("#certificates tbody tr").length === 5`, // once
			`document.querySelectorAll(".path > ul > li").length === 4`,
		} {
			eventually(t, want, func() bool {
				is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](want))
				if err != nil {
					t.Fatal(err)
				}
				return is
			})
		}
		showsShares(t, ctx, false)
		readable(t, ctx)
	}
	for _, c := range complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

// picture leaves what the browser shows to who wants to see it.
func picture(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name), shot, 0o644); err != nil {
		t.Fatal(err)
	}
}
