// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T17: certificates of several names change by file, by rename and as a mounted
// Secret does, while clients shake hands all the time, resuming sessions or not, and
// others stay connected. No handshake fails, which it would with the certificate of
// one version and the key of another; no connection ends; nobody who has seen a
// certificate sees one from before it.
func TestRotationByFileFailsNoHandshake(t *testing.T) {
	rounds, live, rate := 8, 20, 100
	if full {
		rounds, live, rate = 1250, 500, 240 // the machine does not keep up with each
	}
	count := &figures.Figures{}
	figures.Record(t, count)
	r := &rotation{T: t, g: launch(t, serveTCP(t, echoForever), nil)}
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprintf("n%d", i))
		r.names = append(r.names, &rotated{secret: names[i], name: names[i] + ".example.com", mounted: i >= 4, versions: map[string]int{}})
	}
	r.rotate(0)
	r.g.write("names.yaml", namesObjects(r.g.port, names...))
	for _, n := range r.names {
		eventually(t, n.name+" is served", func() bool { return talk(r.g.port, n.name) == nil })
	}

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	for i := range live {
		c, err := r.g.connectTo(r.names[i%len(r.names)].name, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.NetConn().SetDeadline(time.Time{})
		wg.Go(func() { r.stay(ctx, newEchoing(c)) })
	}
	wg.Go(func() { r.shakeHands(ctx, rate) })
	began := time.Now()
	var visible []time.Duration
	for round := range rounds {
		if round > 0 && !timeLeft(t) {
			break
		}
		visible = append(visible, r.rotate(round+1)...)
	}
	took := time.Since(began)
	stop()
	wg.Wait()

	slices.Sort(visible)
	at := func(share float64) time.Duration {
		return visible[int(share*float64(len(visible)-1))].Round(time.Millisecond)
	}
	count.Connections, count.Bytes, count.Faults, count.Failures = r.handshakes.Load(), r.bytes.Load(), int64(len(visible)), r.failures.Load()
	count.What = fmt.Sprintf("rotations, %.0f a second; %.0f handshakes a second, %d of them resumed; %d connections stay; a new certificate is seen after %v, 99%% within %v",
		float64(len(visible))/took.Seconds(), float64(r.handshakes.Load())/took.Seconds(), r.resumed.Load(), live, at(0.5), at(0.99))
	t.Logf("%d %s", len(visible), count.What)
	if r.resumed.Load() == 0 {
		t.Error("no handshake was resumed")
	}
}

// rotation is a gateway whose certificates change.
type rotation struct {
	*testing.T
	g     *gateway
	names []*rotated

	handshakes, resumed, bytes, failures atomic.Int64
}

// rotated is a name with a certificate that changes.
type rotated struct {
	secret  string
	name    string
	mounted bool // in a folder that is swapped, as the kubelet does, not by rename
	seen    atomic.Int64

	mu       sync.Mutex
	versions map[string]int // of a serial number
}

// namesObjects are a Gateway with a listener and a Secret for each of some names of
// example.com.
func namesObjects(port string, names ...string) []byte {
	var listeners, hosts []string
	for _, n := range names {
		hosts = append(hosts, n+".example.com")
		listeners = append(listeners, fmt.Sprintf("{name: %s, hostname: %[1]s.example.com, protocol: TLS, port: %s, tls: {certificateRefs: [{name: %[1]s}]}}", n, port))
	}
	return fmt.Appendf(nil, `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: names},
  spec: {gatewayClassName: sluice, addresses: [{value: 127.0.0.1}], listeners: [%s]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: names},
  spec: {parentRefs: [{name: names}], hostnames: [%s], rules: [{backendRefs: [{name: test, port: 1}]}]}}
`, strings.Join(listeners, ", "), strings.Join(hosts, ", "))
}

// rotate gives each name a new certificate, waits until a handshake has shown all of
// them, and tells how long that took for each.
func (r *rotation) rotate(version int) (visible []time.Duration) {
	r.Helper()
	conf := filepath.Join(r.g.dir, "conf")
	mount := fmt.Sprintf("..%d", version)
	if err := os.Mkdir(filepath.Join(conf, mount), 0o700); err != nil {
		r.Fatal(err)
	}
	link := func(to, at string) {
		if err := os.Symlink(to, filepath.Join(conf, ".link")); err != nil {
			r.Fatal(err)
		}
		if err := os.Rename(filepath.Join(conf, ".link"), filepath.Join(conf, at)); err != nil {
			r.Fatal(err)
		}
	}
	for _, n := range r.names {
		c, err := newCertificate(time.Now().Add(time.Hour), n.name)
		if err != nil {
			r.Fatal(err)
		}
		n.mu.Lock()
		n.versions[c.serial.String()] = version
		n.mu.Unlock()
		if !n.mounted {
			r.g.write(n.name+".yaml", c.secret(n.secret))
			continue
		}
		if err := os.WriteFile(filepath.Join(conf, mount, n.name+".yaml"), c.secret(n.secret), 0o600); err != nil {
			r.Fatal(err)
		}
		if version == 0 {
			link("..data/"+n.name+".yaml", n.name+".yaml")
		}
	}
	link(mount, "..data")
	began := time.Now()
	if version == 0 {
		return nil
	}
	if version > 1 {
		_ = os.RemoveAll(filepath.Join(conf, fmt.Sprintf("..%d", version-1)))
	}
	left := slices.Clone(r.names)
	for len(left) > 0 {
		left = slices.DeleteFunc(left, func(n *rotated) bool {
			if n.seen.Load() < int64(version) {
				return false
			}
			visible = append(visible, time.Since(began))
			return true
		})
		if time.Since(began) > time.Minute {
			r.Fatalf("version %d of %s is not served", version, left[0].name)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return visible
}

// shakeHands makes so many handshakes a second, or what the machine can, with each
// name in turn.
func (r *rotation) shakeHands(ctx context.Context, rate int) {
	sessions := tls.NewLRUClientSessionCache(2 * len(r.names))
	slots := make(chan struct{}, 64)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		n, known := r.names[i%len(r.names)], sessions
		if i/len(r.names)%2 == 0 {
			known = nil
		}
		wg.Go(func() {
			defer func() { <-slots }()
			r.failed(r.shakeHand(n, known))
		})
	}
}

func (r *rotation) shakeHand(n *rotated, sessions tls.ClientSessionCache) error {
	seen := n.seen.Load()
	r.handshakes.Add(1)
	c, err := r.g.connectTo(n.name, sessions)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	state := c.ConnectionState()
	if state.DidResume {
		r.resumed.Add(1)
	}
	serial := state.PeerCertificates[0].SerialNumber.String()
	n.mu.Lock()
	version, ok := n.versions[serial]
	n.mu.Unlock()
	if !ok || int64(version) < seen {
		return errors.Join(fmt.Errorf("%s: after version %d came %d (known: %v, resumed: %v)", n.name, seen, version, ok, state.DidResume), c.Close())
	}
	for seen = n.seen.Load(); seen < int64(version) && !n.seen.CompareAndSwap(seen, int64(version)); seen = n.seen.Load() {
	}
	// The tickets come behind the handshake: before what is echoed.
	e := newEchoing(c)
	r.bytes.Add(200)
	return errors.Join(e.exchange(100), e.finish())
}

// stay is a connection that exchanges a little every now and then.
func (r *rotation) stay(ctx context.Context, c *echoing) {
	for ctx.Err() == nil {
		if err := c.exchange(1 << 10); err != nil {
			r.failed(fmt.Errorf("a connection that stays: %w", err))
			return
		}
		r.bytes.Add(2 << 10)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	r.failed(c.finish())
}

func (r *rotation) failed(err error) {
	if err != nil && r.failures.Add(1) <= 10 {
		r.Error(err)
	}
}
