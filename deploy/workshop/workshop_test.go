// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package workshop

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// stage is a folder in which the commands of a page run.
type stage struct {
	*testing.T
	dir string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t, t.TempDir()}
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, f), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// try runs commands; what they export is there for the next ones. It returns all
// that they print.
func (s *stage) try(commands string) (string, error) {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", "[ ! -e .exported ] || . ./.exported\n"+commands+"\nexport -p >.exported")
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *stage) run(commands string) string {
	s.Helper()
	out, err := s.try(commands)
	if err != nil {
		s.Fatalf("%v\n%s%s", err, commands, out)
	}
	return out
}

// runUntil runs commands until they show something: lacks returns "".
func (s *stage) runUntil(commands string, lacks func(out string) string) string {
	s.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		out, err := s.try(commands)
		missing := lacks(out)
		if err == nil && missing == "" {
			return out
		}
		if time.Now().After(deadline) {
			s.Fatalf("%v, and not shown: %s\n%s%s", err, missing, commands, out)
		}
	}
}

// inventory is what there is: every object of the namespaces that a workshop may
// touch, but Events, which the API server drops after an hour; the addresses of
// the node, and what it listens on.
func (s *stage) inventory() string {
	s.Helper()
	return s.run(`kinds=$(kubectl api-resources --verbs=list --namespaced -o name | grep -v '^events' | paste -sd,)
for namespace in default sluice-system; do kubectl -n $namespace get "$kinds" -o name 2>/dev/null | sort | sed "s#^#$namespace #"; done
"$SCRIPTS/in.sh" node1 ip -o -4 addr show | awk '{print "address", $2, $4}' | sort
"$SCRIPTS/in.sh" node1 ss -Hltn | awk '{print "port", $4}' | sort`)
}

// cleaned waits until there is again what there was before, and more only of what is
// named.
func (s *stage) cleaned(before string, more ...string) {
	s.Helper()
	want := strings.Split(before, "\n")
	var difference []string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		now := strings.Split(s.inventory(), "\n")
		difference = nil
		for _, line := range now {
			if !slices.Contains(want, line) && !slices.Contains(more, line) {
				difference = append(difference, "left behind: "+line)
			}
		}
		for _, line := range append(slices.Clone(want), more...) {
			if !slices.Contains(now, line) {
				difference = append(difference, "missing: "+line)
			}
		}
		if len(difference) == 0 {
			s.Logf("%d objects, addresses and ports, as before, and %q", len(want), more)
			return
		}
	}
	s.Errorf("after the clean-up:\n%s", strings.Join(difference, "\n"))
}

// What the original shows of the answers.
const (
	inTheClear = `< HTTP/1.1 200 OK
"path": "/get"
"host": "www.example.com"
"proto": "HTTP/1.1"
"X-Envoy-External-Address": [
"X-Forwarded-For": [
"X-Forwarded-Proto": [
"http"
"X-Request-Id": [
"namespace": "default"
"pod": "backend-ssl-offload-`
	overTLS = `ALPN … server accepted … h2
SSL certificate verify ok.
< HTTP/2 200
"path": "/get"
"host": "www.example.com"
"proto": "HTTP/1.1"
"X-Envoy-External-Address": [
"X-Forwarded-For": [
"X-Forwarded-Proto": [
"https"
"X-Request-Id": [
"namespace": "default"
"pod": "backend-ssl-offload-`
	throughTCPRoute = `SSL certificate verify ok.
< HTTP/1.1 200 OK
"path": "/get"
"proto": "HTTP/1.1"
"pod": "backend-ssl-offload-`
)

func TestPage(t *testing.T) {
	s := newStage(t)
	before := s.inventory()
	for _, step := range readPage(t) {
		for i, b := range step.blocks {
			t.Logf("step %d: %s", step.number, b.commands)
			out := ""
			if b.shows == "" {
				out = s.run(b.commands)
			} else {
				out = s.runUntil(b.commands, func(out string) string { return lacks(out, b.shows) })
			}
			t.Log(out)
			wants := map[int]string{6: inTheClear, 12: overTLS}[step.number]
			if missing := lacks(out, wants); i == 0 && missing != "" {
				t.Errorf("step %d does not show %s", step.number, missing)
			}
		}
		if step.number == 13 {
			s.checkTCPRoute()
		}
	}
	s.cleaned(before)
}

func TestOriginal(t *testing.T) {
	all := readOriginal(t)
	s := newStage(t)
	for _, step := range all { // the nodes have the app's image under the name that our page has
		for _, image := range regexp.MustCompile(`image: (\S+)`).FindAllStringSubmatch(step.blocks[0].commands, -1) {
			s.run(`image=$(sed -n 's/^ *image: //p' app.yaml); "$SCRIPTS/in.sh" node1 ctr -n k8s.io images tag --force "$image" ` + image[1])
		}
	}
	before := s.inventory()
	for _, step := range all[:12] {
		b := step.blocks[0]
		t.Logf("step %d: %s", step.number, b.commands)
		if b.shows == "" {
			t.Log(s.run(b.commands))
			continue
		}
		// The names of headers and of what else the app tells, as shown there.
		names := regexp.MustCompile(`"[\w-]+":`).FindAllString(b.shows, -1)
		if len(names) < 10 {
			t.Fatalf("step %d shows %q only", step.number, names)
		}
		t.Log(s.runUntil(b.commands, func(out string) string {
			for _, n := range names {
				if !strings.Contains(out, n) {
					return n
				}
			}
			return lacks(out, map[int]string{6: inTheClear, 12: overTLS}[step.number])
		}))
	}
	s.run("kubectl delete httproute backend-ssl-offload")
	t.Log(s.runUntil(all[11].blocks[0].commands, func(out string) string {
		if strings.Contains(out, "X-Forwarded") {
			return "the request as it was"
		}
		return lacks(out, throughTCPRoute)
	}))
	s.checkTCPRoute()
	s.run(all[2].blocks[0].commands) // for the clean-up to delete
	s.run(all[12].blocks[0].commands)
	s.cleaned(before, "default serviceaccount/backend-ssl-offload")
	s.run("kubectl delete serviceaccount backend-ssl-offload")
	s.cleaned(before)
}

// checkTCPRoute makes a connection with many requests, and looks at it where the
// node shows it: it is the TCPRoute's, and its bytes are redirected.
func (s *stage) checkTCPRoute() {
	s.Helper()
	address := strings.TrimSpace(s.run(`kubectl get gateway/ssl-offload-gateway -o jsonpath='{.status.addresses[0].value}'`))
	ca, err := os.ReadFile(filepath.Join(s.dir, "example.com.crt"))
	if err != nil {
		s.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", net.JoinHostPort(address, "443"), &tls.Config{
		ServerName: "www.example.com", NextProtos: []string{"h2", "http/1.1"},
		// crypto/tls takes no certificate without subjectAltName for its common name.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
			return err
		},
	})
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "" {
		s.Errorf("protocol %q was agreed on, the TCPRoute can promise none", p)
	}
	spliced := s.splicedBytes()
	r := bufio.NewReader(c)
	for range 50 {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, "GET /get HTTP/1.1\r\nHost: www.example.com\r\n\r\n"); err != nil {
			s.Fatal(err)
		}
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			s.Fatal(err)
		}
		var said struct{ Proto, Pod string }
		if err := json.NewDecoder(response.Body).Decode(&said); err != nil || said.Proto != "HTTP/1.1" || !strings.HasPrefix(said.Pod, "backend-ssl-offload-") {
			s.Fatalf("%v, %+v", err, said)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			s.Fatal(err)
		}
	}
	var connections []struct{ Client, Listener, SNI, Route, Path string }
	if err := json.Unmarshal([]byte(s.run("kubectl -n sluice-system exec ds/sluice-agent -- /sluice conns -o json")), &connections); err != nil {
		s.Fatal(err)
	}
	i := slices.IndexFunc(connections, func(o struct{ Client, Listener, SNI, Route, Path string }) bool {
		return o.Client == c.LocalAddr().String()
	})
	if i < 0 {
		s.Fatalf("the connection from %s is not among %+v", c.LocalAddr(), connections)
	}
	if o := connections[i]; o.Listener != "default/ssl-offload-gateway/https" || o.SNI != "www.example.com" ||
		o.Route != "TCPRoute/default/backend-ssl-offload" || o.Path != "spliced" {
		s.Errorf("the connection is %+v", o)
	}
	if now := s.splicedBytes(); now <= spliced {
		s.Errorf("no byte of 50 answers went past TCP: sluice_splice_bytes_total is %v", now)
	} else {
		s.Logf("50 requests: %+v, %d bytes past TCP", connections[i], int(now-spliced))
	}
}

// splicedBytes is what the node's metrics say went past TCP towards clients.
func (s *stage) splicedBytes() (n float64) {
	s.Helper()
	out := s.run(`curl -sS "http://$(kubectl get node node1 -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'):9464/metrics"`)
	m := regexp.MustCompile(`(?m)^sluice_splice_bytes_total\{direction="down"\} (\S+)$`).FindStringSubmatch(out)
	if m == nil {
		s.Fatalf("no sluice_splice_bytes_total in %s", out)
	}
	if _, err := fmt.Sscan(m[1], &n); err != nil {
		s.Fatal(err)
	}
	return n
}
