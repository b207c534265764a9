// SPDX-License-Identifier: Apache-2.0

// Command helm renders the chart in deploy/chart as Helm does, with its default
// values, into the manifests of deploy/kubernetes: chart and manifests have one
// source. It is a module of its own so that Helm's libraries are none of Sluice's.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// The namespace that the manifests name.
const namespace = "sluice-system"

const (
	chart     = "../chart"
	manifests = "../kubernetes"
)

func main() {
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

func generate() error {
	crd, err := os.ReadFile("../crds/sluice.dev_gatewayconfigs.yaml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(chart, "files/sluice.dev_gatewayconfigs.yaml"), crd, 0o644); err != nil {
		return err
	}
	files, err := render(nil, "gateway.networking.k8s.io/v1")
	if err != nil {
		return err
	}
	for name, text := range files {
		if name == "NOTES.txt" || name == "crd.yaml" {
			continue // kustomization.yaml has the CRD from where it is made
		}
		if err := os.WriteFile(filepath.Join(manifests, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// render returns what the templates give for values, by the names of the files,
// without those that give nothing. The cluster has, of what templates ask for,
// the API versions given.
func render(values map[string]any, apiVersions ...string) (map[string][]byte, error) {
	c, err := loader.LoadDir(chart)
	if err != nil {
		return nil, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.APIVersions = append(capabilities.APIVersions, apiVersions...)
	release := common.ReleaseOptions{Name: "sluice", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, values, release, capabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for path, text := range rendered {
		name := filepath.Base(path)
		if text = strings.TrimSpace(text); text == "" || strings.HasPrefix(name, "_") {
			continue
		}
		first, rest, _ := strings.Cut(text, "\n")
		if strings.HasPrefix(first, "# SPDX") {
			first += "\n# Made from deploy/chart by make generate, do not edit."
		}
		files[name] = append(bytes.TrimSpace([]byte(first+"\n"+rest)), '\n')
	}
	return files, nil
}
