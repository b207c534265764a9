// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/controller/manifest"
	"github.com/sluice-gateway/sluice/controller/translate"
)

var update = flag.Bool("update", false, "write what the cases in testdata give into them")

// Every archive in testdata has documents, "what-it-is.yaml", and behind each
// that is not all good what Decode says of it, "what-it-is.errors". For the
// kinds of the Gateway API an API server with its CRDs of v1.6.3 takes and
// refuses the same documents.
func TestDecodeSaysWhatIsWrong(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, f := range archive.Files {
			want[f.Name] = string(f.Data)
		}
		var out []txtar.File
		for _, f := range archive.Files {
			name, ok := strings.CutSuffix(f.Name, ".yaml")
			if !ok {
				continue
			}
			got := ""
			if _, err := manifest.Decode(f.Name, f.Data); err != nil {
				got = err.Error() + "\n"
			}
			out = append(out, f)
			if got != "" {
				out = append(out, txtar.File{Name: name + ".errors", Data: []byte(got)})
			}
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+name, func(t *testing.T) {
				if diff := cmp.Diff(want[name+".errors"], got); diff != "" && !*update {
					t.Errorf("errors (-want +got):\n%s", diff)
				}
			})
		}
		if *update {
			archive.Files = out
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDecodeFillsInWhatAnAPIServerWould(t *testing.T) {
	r, err := manifest.Decode("x.yaml", []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, creationTimestamp: "2020-01-01T00:00:00Z", generation: 7, uid: u, resourceVersion: "1"}
spec:
  gatewayClassName: sluice
  addresses: [{value: 192.0.2.1}]
  listeners:
  - {name: a, port: 443, protocol: TLS, tls: {certificateRefs: [{name: c}]}, allowedRoutes: {kinds: [{kind: TLSRoute}]}}
status: {conditions: [{type: Accepted, status: "True", reason: x, message: "", lastTransitionTime: null}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: gw}]
  rules:
  - matches: [{headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}]
    filters: [{type: RequestRedirect, requestRedirect: {}}]
  - backendRefs: [{name: s, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: empty}
spec: {parentRefs: [{name: gw}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(map[string]any{"gateways": r.Gateways, "routes": r.HTTPRoutes})
	if err != nil {
		t.Fatal(err)
	}
	want := `gateways:
- apiVersion: gateway.networking.k8s.io/v1
  kind: Gateway
  metadata:
    name: gw
    namespace: default
  spec:
    addresses:
    - type: IPAddress
      value: 192.0.2.1
    gatewayClassName: sluice
    listeners:
    - allowedRoutes:
        kinds:
        - group: gateway.networking.k8s.io
          kind: TLSRoute
        namespaces:
          from: Same
      name: a
      port: 443
      protocol: TLS
      tls:
        certificateRefs:
        - group: ""
          kind: Secret
          name: c
        mode: Terminate
routes:
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata:
    name: r
    namespace: shop
  spec:
    parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: gw
    rules:
    - filters:
      - requestRedirect:
          statusCode: 302
        type: RequestRedirect
      matches:
      - headers:
        - name: a
          type: Exact
          value: b
        path:
          type: PathPrefix
          value: /
        queryParams:
        - name: a
          type: Exact
          value: b
    - backendRefs:
      - group: ""
        kind: Service
        name: s
        port: 80
        weight: 1
      matches:
      - path:
          type: PathPrefix
          value: /
  status:
    parents: null
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata:
    name: empty
    namespace: default
  spec:
    parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: gw
    rules:
    - matches:
      - path:
          type: PathPrefix
          value: /
  status:
    parents: null
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

func TestDecodeTakesStringDataOverData(t *testing.T) {
	r, err := manifest.Decode("x.yaml", []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"+
		"data: {a: aGVsbG8=, b: aGVsbG8=}\nstringData: {b: world, c: \"!\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"a": []byte("hello"), "b": []byte("world"), "c": []byte("!")}
	if diff := cmp.Diff(want, r.Secrets[0].Data); diff != "" || r.Secrets[0].StringData != nil {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if r.Secrets[0].Type != corev1.SecretTypeOpaque {
		t.Errorf("type %s", r.Secrets[0].Type)
	}
}

func TestDecodeReturnsWhatIsGoodBesideWhatIsNot(t *testing.T) {
	r, err := manifest.Decode("dir/x.yaml", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n"+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: shop}\nspec: {ports: [{port: 0}]}\n"))
	if len(r.Services) != 1 || r.Services[0].Name != "good" {
		t.Errorf("services %v", r.Services)
	}
	want := &manifest.Error{File: "dir/x.yaml", Line: 6, Object: translate.Key{Kind: "Service", Namespace: "shop", Name: "bad"},
		Cause: "spec.ports[0].port: 0 is not a port, 1 to 65535"}
	got, ok := errors.AsType[*manifest.Error](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if got, want := r.Sources[translate.Key{Kind: "Service", Namespace: "default", Name: "good"}], "dir/x.yaml:1"; got != want {
		t.Errorf("source %q, want %q", got, want)
	}
}

func TestDecodeReadsTheSameWithWindowsLineEndsAndByteOrderMark(t *testing.T) {
	text := "# c\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n"
	for name, data := range map[string]string{
		"CR LF":           strings.ReplaceAll(text, "\n", "\r\n"),
		"CR":              strings.ReplaceAll(text, "\n", "\r"),
		"byte order mark": "\xEF\xBB\xBF" + text,
		"no end of line":  strings.TrimSuffix(text, "\n"),
	} {
		r, err := manifest.Decode("x", []byte(data))
		if err != nil || len(r.Services) != 2 {
			t.Errorf("%s: %d services, %v", name, len(r.Services), err)
		}
	}
}

func TestDecodeRefusesUTF16(t *testing.T) {
	r, err := manifest.Decode("a.yaml", []byte("\xFF\xFEk\x00i\x00n\x00d\x00"))
	if err == nil || !strings.Contains(err.Error(), "save it as UTF-8") {
		t.Errorf("error %v", err)
	}
	if len(r.Sources) != 0 {
		t.Errorf("%d objects", len(r.Sources))
	}
}

func TestDecodeNeverQuotesSecrets(t *testing.T) {
	for _, doc := range []string{
		"stringData: {tls.key: [top-secret]}",
		"data: {tls.key: top-secret}",
		"stringData: top-secret",
		"stringData:\n  tls.key: |\n   top-secret\n  top-secret",
		"stringdata: {tls.key: top-secret}",
		"stringData: {tls.key: top-secret, tls.key: top-secret}",
	} {
		_, err := manifest.Decode("x", fmt.Appendf(nil, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n%s\n", doc))
		if err == nil || strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

// FuzzDecode holds that Decode neither panics nor lets through what is not
// valid for the translator.
func FuzzDecode(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range paths {
		if archive, err := txtar.ParseFile(path); err == nil {
			for _, file := range archive.Files {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, _ := manifest.Decode("x", data)
		s := translate.Translate(r, translate.Options{ControllerName: "sluice.dev/gateway-controller", DefaultClass: "sluice"}).Snapshot
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
	})
}
