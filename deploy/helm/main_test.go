// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"sigs.k8s.io/yaml"
)

const gatewayAPI = "gateway.networking.k8s.io/v1"

var update = flag.Bool("update", false, "write the golden files")

func TestTheManifestsAreWhatTheChartGives(t *testing.T) {
	files, err := render(nil, gatewayAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent.yaml", "agent-lease.yaml", "controller.yaml", "gatewayclass.yaml", "services.yaml"} {
		got, err := os.ReadFile(filepath.Join(manifests, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, files[name]) {
			t.Errorf("%s is not what the chart gives: run make generate", name)
		}
	}
	own, err := os.ReadFile("../crds/sluice.dev_gatewayconfigs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(own, files["crd.yaml"]) {
		t.Error("the chart's CRD is not that of deploy/crds: run make generate")
	}
}

// The golden files have what differs from the defaults.
func TestOptionsGive(t *testing.T) {
	usual, err := render(nil, gatewayAPI)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal(cases, err)
	}
	for _, c := range cases {
		t.Run(filepath.Base(c), func(t *testing.T) {
			files, err := render(values(t, c), gatewayAPI)
			if err != nil {
				t.Fatal(err)
			}
			var all bytes.Buffer
			for _, name := range slices.Sorted(maps.Keys(files)) {
				if name != "NOTES.txt" && !bytes.Equal(files[name], usual[name]) {
					fmt.Fprintf(&all, "--- # %s\n%s", name, files[name])
				}
			}
			for _, name := range slices.Sorted(maps.Keys(usual)) {
				if files[name] == nil {
					fmt.Fprintf(&all, "# not there: %s\n", name)
				}
			}
			golden := strings.Replace(c, ".values", "", 1)
			if *update {
				if err := os.WriteFile(golden, all.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all.Bytes(), want) {
				t.Errorf("the chart gives something else than %s: go test -update, then read the difference. It gives\n%s", golden, all.Bytes())
			}
		})
	}
}

func TestTheChartHasNothingToLint(t *testing.T) {
	for _, file := range []string{"", "testdata/options.values.yaml", "testdata/little.values.yaml"} {
		for _, m := range lint.RunAll(chart, values(t, file), namespace).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("with %q: %v", file, m)
			}
		}
	}
}

func TestTheSchemaRefuses(t *testing.T) {
	for _, bad := range []string{
		"imagePullPolicy: Always",
		"image: {pullPolicy: Sometimes}",
		"image: {digest: latest}",
		"controller: {replicas: 0}",
		"controller: {replicas: two}",
		"agent: {tolerations: {operator: Exists}}",
		"networkPolicy: {enabled: true, apiServerPorts: []}",
		"serviceMonitor: {interval: 30}",
	} {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if _, err := render(v, gatewayAPI); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("%s: %v, want an error of the schema", bad, err)
		}
	}
}

// The cluster may lack the Gateway API's CRDs. Sluice is installed all the same,
// but for the class, and the notes say how to go on.
func TestWithoutTheGatewayAPI(t *testing.T) {
	files, err := render(nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := files["gatewayclass.yaml"]; ok {
		t.Errorf("a GatewayClass that the cluster cannot know:\n%s", text)
	}
	const command = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/"
	if notes := string(files["NOTES.txt"]); !strings.Contains(notes, command) {
		t.Errorf("the notes do not name the command that installs the CRDs:\n%s", notes)
	}
	if files, err = render(nil, gatewayAPI); err != nil {
		t.Fatal(err)
	}
	if notes := string(files["NOTES.txt"]); strings.Contains(notes, command) || !strings.Contains(notes, "gatewayClassName: sluice") {
		t.Errorf("with the CRDs the notes are\n%s", notes)
	}
}

// values reads a file of values; "" has none.
func values(t *testing.T, file string) map[string]any {
	t.Helper()
	v := map[string]any{}
	if file == "" {
		return v
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
