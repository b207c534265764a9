// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/figures"
)

const observe = "../../deploy/observe/"

// promtool runs Prometheus' own checks.
func promtool(t *testing.T, stdin io.Reader, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v; deploy/packages.sh test installs it\n%s", strings.Join(args, " "), err, out)
	}
}

func TestTheAlertsFireForTheirCauses(t *testing.T) {
	promtool(t, nil, "check", "rules", observe+"alerts.yaml")
	promtool(t, nil, "test", "rules", observe+"alerts_test.yaml")
	rules, err := os.ReadFile(observe + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(observe + "alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range strings.Split(string(rules), "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		for _, part := range []string{"severity:", "summary:", "description:", "runbook:"} {
			if !strings.Contains(rule, part) {
				t.Errorf("%s has no %s", name, part)
			}
		}
		if !strings.Contains(string(tests), name) {
			t.Errorf("nothing shows when %s fires", name)
		}
	}
}

// panel is what the test reads of one in the dashboard.
type panel struct {
	Title   string
	Targets []struct{ Expr, LegendFormat string }
}

// dashboard is the file, and its panels.
func dashboard(t *testing.T) ([]byte, []panel) {
	t.Helper()
	file, err := os.ReadFile(observe + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(file, &dashboard); err != nil {
		t.Fatal(err)
	}
	return file, dashboard.Panels
}

// TestTheDashboardShowsARunningGateway has a Prometheus read a gateway, a node of a
// cluster and a controller: every panel shows something, every rule has what it
// speaks of, and those fire whose causes there are.
func TestTheDashboardShowsARunningGateway(t *testing.T) {
	needRoot(t)
	count := &figures.Figures{What: "what is wrong, each with its alert"}
	figures.Record(t, count)
	file, panels := dashboard(t)
	rulesText, err := os.ReadFile(observe + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Those that are to last for a while fire at once.
	rules := filepath.Join(t.TempDir(), "alerts.yaml")
	if err := os.WriteFile(rules, regexp.MustCompile(`(?m)^    for: .*$`).ReplaceAll(rulesText, []byte("    for: 0s")), 0o600); err != nil {
		t.Fatal(err)
	}

	gateway := observed(t)
	c := newCluster(t, "a")
	node := c.nodes["a"]
	node.metrics = "127.0.0.1:9464"
	node.start()
	targets := map[string]*http.Client{"gateway": clientIn(gateway), "node": clientIn(node.NS), "controller": http.DefaultClient}
	addresses := map[string]string{"gateway": "127.0.0.1:9464", "node": node.metrics, "controller": observedController(t, c)}
	// Prometheus is in the namespace of the test, and reads the others through it.
	fetch := func(name string) ([]byte, error) {
		resp, err := targets[name].Get("http://" + addresses[name] + "/metrics")
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	through := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := fetch(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(through.Close)
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [" + rules + "]\nscrape_configs:\n"
	for name := range targets {
		config += fmt.Sprintf("- {job_name: sluice-%s, metrics_path: /%s, static_configs: [{targets: [%q], labels: {instance: %s}}]}\n",
			name, name, through.Listener.Addr(), name)
	}
	ask := prometheusWith(t, config)

	for _, p := range panels {
		for _, target := range p.Targets {
			query := strings.NewReplacer("$__rate_interval", "30s", "$instance", ".*").Replace(target.Expr)
			shown := ""
			waitFor(t, func() string {
				shown = string(ask("query", query))
				if !strings.Contains(shown, `"status":"success"`) || strings.Contains(shown, `"result":[]`) {
					return fmt.Sprintf("panel %q shows nothing: %s\n%s", p.Title, query, shown)
				}
				return ""
			})
		}
	}
	var names struct{ Data []string }
	if err := json.Unmarshal(ask("label/__name__/values", ""), &names); err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`\b(sluice|process|go)_[a-z_]+\b`)
	for _, text := range [][]byte{file, expressions(rulesText)} {
		for _, name := range used.FindAllString(string(text), -1) {
			if !slices.Contains(names.Data, name) {
				t.Errorf("no process has %s", name)
			}
		}
	}
	waitFor(t, func() string {
		evaluated := string(ask("rules", ""))
		if n := strings.Count(evaluated, `"health":"ok"`); n != strings.Count(string(rulesText), "- alert: ") {
			return fmt.Sprintf("%d rules can be evaluated: %s", n, evaluated)
		}
		return ""
	})
	count.Faults = fires(t, ask)
	for name := range targets {
		body, err := fetch(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "controller" { // the names of client-go and controller-runtime are theirs
			body = bytes.Join(regexp.MustCompile(`(?m)^(# (HELP|TYPE) )?sluice_.*$`).FindAll(body, -1), []byte("\n"))
			body = append(body, '\n')
		}
		promtool(t, bytes.NewReader(body), "check", "metrics")
	}
}

// fires waits for the alerts of what is wrong with the gateway that is observed, and
// returns how many causes they are. It wants no alert of what is well.
func fires(t *testing.T, ask func(what, query string) []byte) (causes int64) {
	t.Helper()
	type labels struct{ Alertname, Instance, Severity, Backend, Certificate, Listener, Result string }
	firing := func() (out []labels) {
		var answer struct {
			Data struct {
				Alerts []struct {
					Labels labels
					State  string
				}
			}
		}
		if err := json.Unmarshal(ask("alerts", ""), &answer); err != nil {
			t.Fatal(err)
		}
		for _, a := range answer.Data.Alerts {
			if a.State == "firing" && a.Labels.Instance == "gateway" {
				out = append(out, a.Labels)
			}
		}
		return out
	}
	for _, want := range []labels{
		{Alertname: "SluiceBackendWithoutEndpoints", Backend: "default/nobody:1"},
		{Alertname: "SluiceCertificateExpiresSoon", Certificate: "default/certificate"},
		{Alertname: "SluiceConnectionsRefused", Listener: "default/gw/empty", Result: "no_endpoint"},
		{Alertname: "SluiceConnectionsRefused", Listener: "default/gw/tls", Result: "no_route"},
	} {
		want.Instance, want.Severity = "gateway", "warning"
		waitFor(t, func() string {
			if all := firing(); !slices.Contains(all, want) {
				return fmt.Sprintf("no alert %+v among %+v", want, all)
			}
			causes++
			return ""
		})
	}
	for _, a := range firing() {
		if a.Severity == "critical" {
			t.Errorf("all is served, and yet %+v", a)
		}
	}
	return causes
}

// expressions are those of rules, without what is said about them.
func expressions(rules []byte) []byte {
	return regexp.MustCompile(`(?s)    annotations:.*?(\n\n|$)`).ReplaceAll(rules, nil)
}

// waitFor waits until nothing is missing, which check tells.
func waitFor(t *testing.T, check func() (missing string)) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Error(missing)
			return
		}
	}
}

// prometheusWith starts a Prometheus, which the function returned asks.
func prometheusWith(t *testing.T, config string) (ask func(what, query string) []byte) {
	t.Helper()
	dir, address := t.TempDir(), "127.0.0.1:"+freePort(t)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, exec.Command("prometheus", "--config.file="+filepath.Join(dir, "config.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=error"))
	return func(what, query string) []byte {
		resp, err := http.Get("http://" + address + "/api/v1/" + what + "?query=" + url.QueryEscape(query))
		if err != nil {
			return []byte(err.Error())
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return []byte(err.Error())
		}
		return body
	}
}

// background starts a process that ends with the test.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd, &log)
		}
	})
}

// clientIn asks from a namespace.
func clientIn(ns *netns.NS) *http.Client {
	dial := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = (&net.Dialer{}).DialContext(ctx, network, address); return err })
		return c, err
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
}

// observedController starts a controller that has an object to speak of, and
// returns where its metrics are.
func observedController(t *testing.T, c *cluster) (metrics string) {
	t.Helper()
	dir, metrics := t.TempDir(), "127.0.0.1:"+freePort(t)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := writeKubeconfig(kubeconfig, c.api.Config(), c.api.Config().Host, ""); err != nil {
		t.Fatal(err)
	}
	// What the node serves is published in another namespace.
	ns, err := kubernetes.NewForConfigOrDie(c.api.Config()).CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "sluice-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, c, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "sluice"}, "spec": {"controllerName": "`+controllerName+`"}}`)
	background(t, exec.Command("sluice", "controller", "-kubeconfig", kubeconfig, "-namespace", ns.Name, "-metrics", metrics))
	return metrics
}

// apply makes an object that has no namespace.
func apply(t *testing.T, c *cluster, object string) {
	t.Helper()
	err := kubernetes.NewForConfigOrDie(c.api.Config()).CoreV1().RESTClient().Post().
		AbsPath("/apis/gateway.networking.k8s.io/v1/gatewayclasses").Body([]byte(object)).Do(t.Context()).Error()
	if err != nil {
		t.Fatal(err)
	}
}
