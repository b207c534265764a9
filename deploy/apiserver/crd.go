// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// sources are the files that a server is made of.
type sources struct {
	binary string   // of deploy/cluster/kubernetes/build.sh
	crds   []string // folders of YAML
}

// findSources asks the go command, so tests may run in any folder of the module.
func findSources(ctx context.Context) (s sources, err error) {
	const ours, kubernetes, gatewayAPI = "github.com/sluice-gateway/sluice", "k8s.io/api", "sigs.k8s.io/gateway-api"
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-json=Path,Version,Dir", ours, kubernetes, gatewayAPI)
	out, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("%s: %w", cmd, err)
	}
	modules := map[string]struct{ Version, Dir string }{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return s, err
		}
		modules[m.Path] = struct{ Version, Dir string }{m.Version, m.Dir}
	}
	s.crds = []string{
		filepath.Join(modules[gatewayAPI].Dir, "config", "crd", "experimental"),
		filepath.Join(modules[ours].Dir, "deploy", "crds"),
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return s, err
	}
	// The libraries of Kubernetes 1.x.y have version 0.x.y.
	version := "v1" + strings.TrimPrefix(modules[kubernetes].Version, "v0")
	s.binary = filepath.Join(cache, "sluice", "kubernetes-"+version, "kubernetes")
	if _, err := os.Stat(s.binary); err != nil {
		return s, fmt.Errorf("there is no Kubernetes %s (%w): run deploy/cluster/kubernetes/build.sh, or make test", version, err)
	}
	return s, nil
}

// Install installs CRDs by name, like "tlsroutes.gateway.networking.k8s.io",
// and waits until they are served.
func (s *Server) Install(ctx context.Context, crds ...string) error {
	all, err := s.sources.definitions()
	if err != nil {
		return err
	}
	var chosen []*unstructured.Unstructured
	for _, name := range crds {
		i := slices.IndexFunc(all, func(crd *unstructured.Unstructured) bool { return crd.GetName() == name })
		if i < 0 {
			return fmt.Errorf("install CRD %s: neither the Gateway API nor deploy/crds has it", name)
		}
		chosen = append(chosen, all[i])
	}
	return s.install(ctx, chosen)
}

func (s *Server) installAllBut(ctx context.Context, without []string) error {
	all, err := s.sources.definitions()
	if err != nil {
		return err
	}
	return s.install(ctx, slices.DeleteFunc(all, func(crd *unstructured.Unstructured) bool {
		return slices.Contains(without, crd.GetName())
	}))
}

func (s *Server) install(ctx context.Context, crds []*unstructured.Unstructured) error {
	if err := s.apply(ctx, crds); err != nil {
		return err
	}
	for _, crd := range crds {
		if err := s.waitServed(ctx, crd); err != nil {
			return fmt.Errorf("CRD %s: %w", crd.GetName(), err)
		}
	}
	return nil
}

// definitions reads every CRD.
func (s sources) definitions() (all []*unstructured.Unstructured, err error) {
	for _, dir := range s.crds {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			objects, err := decode(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			all = append(all, slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
				return o.GetKind() != "CustomResourceDefinition"
			})...)
		}
	}
	return all, nil
}

// waitServed waits until the API server lists a CRD's resource, and tells clients of
// it, in every version that it serves.
func (s *Server) waitServed(ctx context.Context, crd *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	config := rest.CopyConfig(s.admin)
	config.WarningHandler = rest.NoWarnings{} // old versions are asked for, too
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return err
	}
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if served, _ := version["served"].(bool); !served {
			continue
		}
		path := fmt.Sprintf("/apis/%s/%s/%s", group, version["name"], plural)
		for {
			err := client.RESTClient().Get().AbsPath(path).Param("limit", "1").Do(ctx).Error()
			if err == nil {
				err = discovered(client, fmt.Sprintf("%s/%s", group, version["name"]), plural)
			}
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not served: %w", path, err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// discovered tells whether clients would find a resource. The API server tells them
// of it some time after it serves it.
func discovered(client discovery.DiscoveryInterface, version, plural string) error {
	_, lists, err := client.ServerGroupsAndResources()
	for _, l := range lists {
		if l.GroupVersion == version && slices.ContainsFunc(l.APIResources, func(r metav1.APIResource) bool { return r.Name == plural }) {
			return nil
		}
	}
	return cmp.Or(err, errors.New("clients do not discover it"))
}
