// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Where scanners of images look for a bill of materials.
const sbomPath = "/usr/share/sbom/sluice.cdx.json"

// billOf returns the bill of materials of a Go program, in CycloneDX's JSON: the
// modules that the linker recorded in it, and the standard library. It has
// neither a date nor a serial number, so that the same program has the same.
func billOf(program []byte, version string, p v1.Platform) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("reading the program's modules: %w", err)
	}
	digest := sha256.Sum256(program)
	main := component(info.Main.Path, version)
	main.Type = cyclonedx.ComponentTypeApplication
	main.Hashes = hashes(digest[:])
	main.Properties = &[]cyclonedx.Property{{Name: "platform", Value: p.String()}}

	components := []cyclonedx.Component{component("std", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		c, err := moduleOf(d)
		if err != nil {
			return nil, err
		}
		components = append(components, c)
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}

	var b bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	return b.Bytes(), err
}

func moduleOf(m *debug.Module) (cyclonedx.Component, error) {
	c := component(m.Path, m.Version)
	// The "h1:" sum of go.sum is a SHA-256, of the list of the module's files.
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
	if err != nil || len(sum) != sha256.Size {
		return c, fmt.Errorf("module %s has the sum %q, which is no h1: build from modules, not from folders", m.Path, m.Sum)
	}
	c.Hashes = hashes(sum)
	return c, nil
}

func component(module, version string) cyclonedx.Component {
	url := "pkg:golang/" + module + "@" + version
	return cyclonedx.Component{
		BOMRef: url, Type: cyclonedx.ComponentTypeLibrary,
		Name: module, Version: version, PackageURL: url, Scope: cyclonedx.ScopeRequired,
	}
}

func hashes(sum []byte) *[]cyclonedx.Hash {
	return &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
}
