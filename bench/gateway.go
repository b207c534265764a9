// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/bench/freeport"
)

// startTimeout is how long a gateway may take until it serves, and to end: it may
// have thousands of connections to see to, on a busy machine.
const startTimeout = 60 * time.Second

// gateway is a running peer.
type gateway struct {
	peer   Peer
	site   Site
	cmd    *exec.Cmd
	exited chan error
	output *bytes.Buffer // what it printed; read it after exited
	pids   []int
	group  memoryGroup

	release []func() // of its ports
}

// startGateway starts a peer on ports of its own and waits until it completes
// handshakes. The caller closes it.
func startGateway(ctx context.Context, peer Peer, site Site) (*gateway, error) {
	g := &gateway{peer: peer, exited: make(chan error, 1), output: new(bytes.Buffer)}
	for _, to := range []*netip.AddrPort{&site.Listen, &site.Metrics} {
		port, release, err := freeport.Take()
		if err != nil {
			return nil, err
		}
		g.release = append(g.release, release)
		*to = netip.AddrPortFrom(loopback, port)
	}
	var err error
	if site.Dir, err = os.MkdirTemp(site.Dir, peer.Name+"-"); err != nil {
		return nil, err
	}
	g.site = site
	cmd, err := peer.Command(site)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", peer.Name, err)
	}
	g.cmd = cmd
	cmd.Stdout, cmd.Stderr = g.output, g.output
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", peer.Name, err)
	}
	go func() { g.exited <- cmd.Wait() }()
	if err := g.ready(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", peer.Name, errors.Join(err, g.Close()))
	}
	return g, nil
}

// refresh finds the processes of the gateway; some make workers only after they
// listen.
func (g *gateway) refresh() (err error) {
	if g.cmd == nil {
		return nil
	}
	if g.pids, err = family(g.cmd.Process.Pid); err == nil && g.group == "" {
		g.group = newMemoryGroup(fmt.Sprintf("sluice-bench-%d", g.cmd.Process.Pid), g.pids)
	}
	return err
}

// ready returns when a handshake succeeded.
func (g *gateway) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Only liveness is asked here: the load checks the certificate.
	dial := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: g.site.ServerName()}}).DialContext
	if g.site.Mode == Plain {
		dial = new(net.Dialer).DialContext
	}
	for {
		conn, err := dial(ctx, "tcp", g.site.Listen.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case werr := <-g.exited:
			g.exited <- werr
			return fmt.Errorf("it exited: %v: %s", werr, bytes.TrimSpace(g.output.Bytes()))
		case <-ctx.Done():
			return fmt.Errorf("no handshake: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close ends the gateway, removes its directory and fails when it did not end
// by itself.
func (g *gateway) Close() error {
	if g.cmd == nil {
		return nil
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	var late error
	select {
	case <-g.exited:
	case <-time.After(startTimeout):
		late = fmt.Errorf("%s did not end within %v of SIGTERM", g.peer.Name, startTimeout)
		_ = g.cmd.Process.Kill()
		<-g.exited
	}
	for _, release := range g.release {
		release()
	}
	return errors.Join(late, g.group.Close(), os.RemoveAll(g.site.Dir))
}

// traffic is what Sluice's metrics say about the payload that it has carried,
// both ways, in bytes.
type traffic struct{ payload, spliced float64 }

// traffic reads the metrics of Sluice, nil for a gateway that has none.
func (g *gateway) traffic(ctx context.Context) (*traffic, error) {
	if !g.peer.Metrics {
		return nil, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.site.Metrics.String()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // the process is gone soon
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	var t traffic
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		t.add(lines.Text())
	}
	return &t, lines.Err()
}

// add counts a line of the Prometheus text format.
func (t *traffic) add(line string) {
	series, value, _ := strings.Cut(line, "} ")
	name, _, _ := strings.Cut(series, "{")
	sum := map[string]*float64{"sluice_bytes_total": &t.payload, "sluice_splice_bytes_total": &t.spliced}[name]
	if n, err := strconv.ParseFloat(value, 64); err == nil && sum != nil {
		*sum += n
	}
}

// splicedSince is the share of the payload since an earlier reading that went
// past TCP, nil when it is not known.
func (t *traffic) splicedSince(before *traffic) *float64 {
	if t == nil || before == nil || t.payload <= before.payload {
		return nil
	}
	share := (t.spliced - before.spliced) / (t.payload - before.payload)
	return &share
}

// buildSluice builds the gateway of this module into dir, as make build does. Its
// version is the commit, where there is one.
func buildSluice(ctx context.Context, dir string) (string, error) {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module to build: go list -m: %w", err)
	}
	binary := filepath.Join(dir, "sluice")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-trimpath", "-pgo=bench/sluice.pgo", "-o", binary, "./cmd/sluice")
	build.Dir = string(bytes.TrimSpace(module))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build sluice: %w: %s", err, bytes.TrimSpace(out))
	}
	return binary, nil
}
