// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/manifest"
	"github.com/sluice-gateway/sluice/controller/translate"
)

var update = flag.Bool("update", false, "write what the cases in testdata give into them")

// now is when every case takes place.
var now = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC)

const controllerName = "sluice.dev/gateway-controller"

// goldenCase is an archive of testdata. Its comment says what it shows. Files
// that end in .yaml are the objects; those in before/ were there at the last
// translation, which gives Previous and Statuses. The optional file "options"
// is a goldenOptions. The rest is what comes of it:
//
//   - errors: what manifest.Decode says, where it says anything
//   - statuses: a line per condition
//   - problems: Status.Problems, where there are any
//   - snapshot: the snapshot in YAML, with subjects for chains
type goldenCase struct {
	archive *txtar.Archive
	options goldenOptions
}

type goldenOptions struct {
	// Cluster reads objects as an API server stores them, defaults left out,
	// with timestamps, generations and statuses, and has no default class.
	Cluster bool `json:"cluster"`
	// Reports are what nodes say by listener, of this snapshot. Default is one
	// node that serves everything. An empty list is nodes that said nothing.
	Reports *[]map[string]string `json:"reports"`
	// Addresses are what nodes say of the addresses that they hold.
	Addresses map[netip.Addr]string `json:"addresses"`
	// Empty is what they say of backends without endpoints.
	Empty map[string]string `json:"empty"`
	// Stale makes the reports those of another snapshot.
	Stale         bool         `json:"stale"`
	NodeAddresses []netip.Addr `json:"nodeAddresses"`
	// ByNode leaves endpoints to nodes.
	ByNode        bool   `json:"byNode"`
	BundleVersion string `json:"bundleVersion"`
	// Unmade are the Gateways whose Service cannot be made, with the reason, and
	// NoServices says that none can.
	Unmade     map[string]string     `json:"unmade"`
	NoServices bool                  `json:"noServices"`
	NodeNames  map[netip.Addr]string `json:"nodeNames"`
	// Full prints statuses as they are, times included.
	Full bool `json:"full"`
}

func readCase(t testing.TB, path string) goldenCase {
	t.Helper()
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := goldenCase{archive: a, options: goldenOptions{NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}
	for _, f := range a.Files {
		if f.Name == "options" {
			if err := yaml.UnmarshalStrict(f.Data, &c.options); err != nil {
				t.Fatalf("options: %v", err)
			}
		}
	}
	return c
}

// resources reads the objects of the case, those under before/ or the others.
func (c goldenCase) resources(t testing.TB, before bool) (translate.Resources, string) {
	t.Helper()
	var all translate.Resources
	var problems []string
	for _, f := range c.archive.Files {
		if filepath.Ext(f.Name) != ".yaml" || strings.HasPrefix(f.Name, "before/") != before {
			continue
		}
		if c.options.Cluster {
			decodeStored(t, f.Data, &all)
			continue
		}
		r, err := manifest.Decode(f.Name, f.Data)
		if err != nil {
			problems = append(problems, err.Error())
		}
		if err := all.Merge(r); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return all, strings.Join(problems, "\n")
}

func (c goldenCase) translate(t testing.TB, r translate.Resources) (*config.Snapshot, []translate.Status) {
	t.Helper()
	o := translate.Options{ControllerName: controllerName, DefaultClass: "sluice", Now: now,
		NodeAddresses: c.options.NodeAddresses, NodeNames: c.options.NodeNames, BundleVersion: c.options.BundleVersion, ByNode: c.options.ByNode}
	if c.options.Cluster {
		o.DefaultClass = ""
	}
	if before, _ := c.resources(t, true); len(before.Gateways) > 0 {
		o.Now = now.Add(-time.Hour)
		first := translate.Translate(before, o)
		o.Previous, o.Statuses = first.Snapshot, first.Statuses(translate.Feedback{})
		o.Statuses = translate.Translate(before, o).Statuses(translate.Feedback{Reports: c.reports(first.Snapshot)})
		o.Now = now
	}
	translation := translate.Translate(r, o)
	return translation.Snapshot, translation.Statuses(c.feedback(translation.Snapshot))
}

func (c goldenCase) feedback(s *config.Snapshot) translate.Feedback {
	f := translate.Feedback{Reports: c.reports(s), NoServices: c.options.NoServices, Unmade: map[translate.Key]string{}}
	for gateway, why := range c.options.Unmade {
		namespace, name, _ := strings.Cut(gateway, "/")
		f.Unmade[translate.Key{Kind: "Gateway", Namespace: namespace, Name: name}] = why
	}
	return f
}

func (c goldenCase) reports(s *config.Snapshot) []config.Report {
	hash := s.Hash()
	if c.options.Stale {
		hash = "another"
	}
	if c.options.Reports == nil {
		all := config.Report{Hash: hash, Listeners: map[string]string{}, Addresses: c.options.Addresses, Empty: c.options.Empty}
		for _, l := range s.Listeners {
			all.Listeners[l.Name] = ""
		}
		return []config.Report{all}
	}
	var out []config.Report
	for _, r := range *c.options.Reports {
		out = append(out, config.Report{Hash: hash, Listeners: r, Empty: c.options.Empty})
	}
	return out
}

// casePaths are the archives: those of testdata by what they show, and those of
// testdata/conformance by the test of the Gateway API whose objects they have.
func casePaths(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"testdata/*.txtar", "testdata/conformance/*.txtar"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) < 10 {
			t.Fatalf("%d cases %s, %v", len(paths), pattern, err)
		}
		all = append(all, paths...)
	}
	return all
}

func TestGolden(t *testing.T) {
	for _, path := range casePaths(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			c := readCase(t, path)
			r, problems := c.resources(t, false)
			s, statuses := c.translate(t, r)
			if err := s.Validate(); err != nil {
				t.Errorf("the snapshot is not valid: %v", err)
			}
			got := []txtar.File{{Name: "statuses", Data: []byte(statusText(t, statuses, c.options.Full))}}
			if problems != "" {
				got = slices.Insert(got, 0, txtar.File{Name: "errors", Data: []byte(problems + "\n")})
			}
			var wrong []string
			for _, st := range statuses {
				wrong = append(wrong, st.Problems()...)
			}
			if len(wrong) > 0 {
				got = append(got, txtar.File{Name: "problems", Data: []byte(strings.Join(wrong, "\n") + "\n")})
			}
			got = append(got, txtar.File{Name: "snapshot", Data: snapshotText(t, s)})
			c.compare(t, path, got)
		})
	}
}

// compare holds what came out against the archive, or writes it there.
func (c goldenCase) compare(t *testing.T, path string, got []txtar.File) {
	t.Helper()
	outputs := []string{"errors", "statuses", "problems", "snapshot"}
	var in, want []txtar.File
	for _, f := range c.archive.Files {
		if slices.Contains(outputs, f.Name) {
			want = append(want, f)
		} else {
			in = append(in, f)
		}
	}
	if *update {
		c.archive.Files = append(in, got...)
		if err := os.WriteFile(path, txtar.Format(c.archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text := func(files []txtar.File) string { return string(txtar.Format(&txtar.Archive{Files: files})) }
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("%s (-want +got, go test ./controller/translate -update writes it):\n%s", path, diff)
	}
}

// statusText prints statuses a condition per line.
func statusText(t *testing.T, all []translate.Status, full bool) string {
	t.Helper()
	if full {
		out, err := yaml.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	var b strings.Builder
	conditions := func(indent string, in []metav1.Condition) {
		for _, c := range in {
			fmt.Fprintf(&b, "%s%s=%s %s: %s\n", indent, c.Type, c.Status, c.Reason, c.Message)
		}
	}
	listener := func(l gwv1.ListenerStatus) {
		var kinds []string
		for _, k := range l.SupportedKinds {
			kinds = append(kinds, string(k.Kind))
		}
		fmt.Fprintf(&b, "  listener %s: %d attached, supports %s\n", l.Name, l.AttachedRoutes, kinds)
		conditions("    ", l.Conditions)
	}
	for _, s := range all {
		fmt.Fprintln(&b, s.Key())
		switch {
		case s.GatewayClass != nil:
			conditions("  ", s.GatewayClass.Conditions)
		case s.Gateway != nil:
			conditions("  ", s.Gateway.Conditions)
			for _, a := range s.Gateway.Addresses {
				fmt.Fprintf(&b, "  address %s %s\n", *a.Type, a.Value)
			}
			if n := s.Gateway.AttachedListenerSets; n != nil {
				fmt.Fprintf(&b, "  ListenerSets: %d\n", *n)
			}
			for _, l := range s.Gateway.Listeners {
				listener(l)
			}
		case s.ListenerSet != nil:
			conditions("  ", s.ListenerSet.Conditions)
			for _, l := range s.ListenerSet.Listeners {
				listener(gwv1.ListenerStatus(l))
			}
		case s.Route != nil:
			for _, p := range s.Route.Parents {
				fmt.Fprintf(&b, "  parent %s by %s\n", refText(p.ParentRef), p.ControllerName)
				conditions("    ", p.Conditions)
			}
		case s.Policy != nil:
			for _, a := range s.Policy.Ancestors {
				fmt.Fprintf(&b, "  ancestor %s by %s\n", refText(a.AncestorRef), a.ControllerName)
				conditions("    ", a.Conditions)
			}
		}
		if s.Infrastructure != nil {
			out, err := json.Marshal(s.Infrastructure)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "  infrastructure: %s\n", out)
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(&b, "  warning: %s\n", w)
		}
	}
	return b.String()
}

func refText(r gwv1.ParentReference) string {
	out := string(r.Name)
	if r.Namespace != nil {
		out = string(*r.Namespace) + "/" + out
	}
	if r.SectionName != nil {
		out += " " + string(*r.SectionName)
	}
	if r.Port != nil {
		out += fmt.Sprintf(" port %d", *r.Port)
	}
	return out
}

// snapshotText prints a snapshot with the subjects of certificates in place of
// their PEM.
func snapshotText(t *testing.T, s *config.Snapshot) []byte {
	t.Helper()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for i, c := range s.Certificates {
		m["certificates"].([]any)[i].(map[string]any)["chain"] = subjects(t, c.Chain)
	}
	for i, a := range s.Authorities {
		m["authorities"].([]any)[i].(map[string]any)["bundle"] = subjects(t, a.Bundle)
	}
	out, err := yaml.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func subjects(t *testing.T, chain []byte) []string {
	t.Helper()
	var out []string
	for b, rest := pem.Decode(chain); b != nil; b, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s (%s)", c.Subject, c.PublicKeyAlgorithm))
	}
	return out
}
