// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	utiljson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/controller/manifest"
)

// crd is one version of a custom resource as an API server reads it.
type crd struct {
	structural *schema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

// readCRDs reads our own and those of the Gateway API module that the program
// is built with, by "group/version Kind".
func readCRDs(t *testing.T, channel string) map[string]crd {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "config/crd", channel, "gateway.networking.k8s.io_*s.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no CRDs", err)
	}
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	if err != nil || len(own) == 0 {
		t.Fatal("no CRDs of our own", err)
	}
	crds := map[string]crd{}
	for _, path := range append(paths, own...) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v1 apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(data, &v1); err != nil {
			t.Fatal(err)
		}
		for _, v := range v1.Spec.Versions {
			if !v.Served {
				continue
			}
			var internal apiextensions.JSONSchemaProps
			if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &internal, nil); err != nil {
				t.Fatal(err)
			}
			structural, err := schema.NewStructural(&internal)
			if err != nil {
				t.Fatal(err)
			}
			validator, _, err := validation.NewSchemaValidator(&internal)
			if err != nil {
				t.Fatal(err)
			}
			crds[fmt.Sprintf("%s/%s %s", v1.Spec.Group, v.Name, v1.Spec.Names.Kind)] = crd{structural, validator,
				cel.NewValidator(structural, true, celconfig.PerCallLimit)}
		}
	}
	return crds
}

type unknownFields []string

func (u unknownFields) Error() string { return fmt.Sprintf("unknown fields %q", []string(u)) }

// refuse says why an API server would not create an object, which stays as it is.
func (c *crd) refuse(in map[string]any) error {
	object := runtime.DeepCopyJSON(in)
	delete(object, "status") // which has a door of its own
	unknown := pruning.PruneWithOptions(object, c.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		return unknownFields(unknown)
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, c.structural)
	defaulting.Default(object, c.structural)
	errs := validation.ValidateCustomResource(nil, object, c.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, object)...)
	if len(errs) == 0 && c.cel != nil {
		errs, _ = c.cel.Validate(context.Background(), nil, c.structural, object, nil, celconfig.RuntimeCELCostBudget)
	}
	return errs.ToAggregate()
}

// TestDecodeTakesWhatTheCRDsTake gives every document of the testdata of this
// package and of the translator to Decode, and to the schemas and rules (CEL)
// of the CRDs as an API server applies them. Both take it, or
// both refuse it.
func TestDecodeTakesWhatTheCRDsTake(t *testing.T) {
	standard, experimental := readCRDs(t, "standard"), readCRDs(t, "experimental")
	var paths []string
	for _, pattern := range []string{"testdata/*.txtar", "../translate/testdata/*.txtar", "../translate/testdata/conformance/*.txtar"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal("no testdata in ", pattern, err)
		}
		paths = append(paths, found...)
	}
	taken, refused := 0, 0
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if filepath.Ext(f.Name) != ".yaml" {
				continue
			}
			for i, doc := range strings.Split("\n"+string(f.Data), "\n---\n") {
				var object map[string]any
				raw, err := yaml.YAMLToJSONStrict([]byte(doc))
				if err != nil || utiljson.UnmarshalCaseSensitivePreserveInts(raw, &object) != nil {
					continue // some documents are no YAML, or no object
				}
				apiVersion, _ := object["apiVersion"].(string)
				kind, _ := object["kind"].(string)
				c, ok := standard[apiVersion+" "+kind]
				if !ok {
					continue
				}
				_, ours := manifest.Decode(f.Name, []byte(doc))
				theirs := c.refuse(object)
				if errors.As(theirs, new(unknownFields)) {
					// Fields of the experimental channel get a status that says so.
					c = experimental[apiVersion+" "+kind]
					theirs = c.refuse(object)
				}
				if (ours == nil) != (theirs == nil) {
					t.Errorf("%s %s, document %d: Decode says %v, the CRD says %v", path, f.Name, i, ours, theirs)
				}
				if theirs == nil {
					taken++
				} else {
					refused++
				}
			}
		}
	}
	t.Logf("%d documents are taken, %d refused", taken, refused)
	if taken < 300 || refused < 100 {
		t.Error("too few of them: does the test still find them?")
	}
}
