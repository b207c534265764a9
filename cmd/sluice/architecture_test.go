// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluice-gateway/sluice"

// mayImport says which packages of the module a package may import; "*" is all
// of them. A package that is not here may import none.
var mayImport = map[string]struct {
	packages []string
	reason   string
}{
	"agent/udp":                 {[]string{"agent/config"}, "it serves the UDP listeners of a snapshot, as the terminator does the others"},
	"agent/splice":              {[]string{"bpf"}, "it is the only one that knows the kernel half"},
	"agent/address":             {[]string{"bpf"}, "it sends its frames through the kernel half, and knows nothing of what is served at an address"},
	"terminator":                {[]string{"agent/config", "terminator/balance", "terminator/httproute", "terminator/loop", "terminator/record", "terminator/relay"}, "it serves a snapshot and sees neither BPF nor Kubernetes; Server.Dial is the seam"},
	"terminator/httproute":      {[]string{"agent/config", "terminator/balance"}, "it serves the HTTP rules of a snapshot"},
	"terminator/record":         {[]string{"terminator/record/gcm"}, "it carries records, however they are encrypted"},
	"terminator/loop":           {nil, "it waits for sockets, whatever they carry"},
	"terminator/relay":          {[]string{"terminator/loop", "terminator/record"}, "it carries bytes between two legs, whoever speaks TLS on them"},
	"terminator/balance":        {[]string{"agent/config"}, "it chooses among the endpoints of a snapshot"},
	"agent":                     {[]string{"agent/config", "agent/desk", "agent/handover", "agent/splice", "agent/udp", "terminator"}, "it runs a node and does not know where snapshots come from"},
	"controller/endpoints":      {[]string{"agent/config"}, "EndpointSlices to endpoints is a pure function"},
	"controller/translate":      {[]string{"agent/config", "controller/endpoints", "controller/translate/keypair", "controller/v1alpha1"}, "resources to snapshot is a pure function"},
	"controller/manifest":       {[]string{"controller/translate", "controller/v1alpha1"}, "it reads resources and does not judge them"},
	"controller/folder":         {[]string{"controller/manifest", "controller/translate"}, "it is a source of resources, nothing else"},
	"controller/lint":           {[]string{"controller/folder", "controller/manifest", "controller/translate", "controller/translate/keypair"}, "it says with files and lines what the translator says"},
	"controller/publication":    {[]string{"agent/config"}, "it is what controller and nodes tell each other, and knows neither"},
	"controller/node":           {[]string{"agent/config", "agent/address", "controller/endpoints", "controller/patient", "controller/publication"}, "it is a source of snapshots, as a folder is of resources"},
	"controller/infrastructure": {[]string{"controller/publication", "controller/translate"}, "it makes what a status asks for"},
	"controller":                {[]string{"agent/config", "agent/desk", "controller/infrastructure", "controller/patient", "controller/publication", "controller/translate", "controller/v1alpha1"}, "it watches, translates and publishes; what nodes do with it is theirs"},
	"cmd/sluice":                {[]string{"*"}, "only the command knows both agent and controller"},
	"deploy/reliability/fuzz":   {[]string{"bench/figures"}, "it runs tests and keeps what they say"},
	"deploy/reliability":        {[]string{"bench/figures"}, "it shows what tests have counted"},
	"deploy/kernels/guest":      {[]string{"bench/figures", "deploy/kernels"}, "it runs other programs, whatever they are"},
	"deploy/e2e/keyedserver":    {[]string{"bench/keyed"}, "it is a backend that checks what it gets"},
	"bench/scale":               {[]string{"agent/config", "controller/node", "deploy/apiserver"}, "it measures the controller from outside, with nodes that serve nothing"},
	"bench":                     {[]string{"agent/config", "agent/netns", "agent/splice", "bench/freeport", "bench/keyed", "bench/report", "terminator"}, "it measures the data path"},
}

// mayNotImport are packages of others that only some may know.
var mayNotImport = []struct {
	imported string // and everything below
	except   func(pkg string) bool
	reason   string
}{
	{"github.com/cilium/ebpf", in("bpf", "agent/splice"), "the rest of the program goes through splice.Splicer"},
	{"k8s.io", in("controller", "cmd", "deploy", "bench/scale"), "a node serves a snapshot, whoever made it"},
	{"sigs.k8s.io", in("controller", "cmd", "deploy", "bench/scale"), "a node serves a snapshot, whoever made it"},
	{"os", not("controller/translate"), "the translator does no I/O"},
	{"net", not("controller/translate"), "the translator does no I/O"},
	{"log/slog", not("controller/translate"), "the translator says everything in statuses"},
	{"testing", in(), "test code stays out of the program"},
	{"C", in(), "the binary is static"},
}

// in tells whether a package is one of some, or below.
func in(packages ...string) func(string) bool {
	return func(pkg string) bool {
		return slices.ContainsFunc(packages, func(p string) bool { return pkg == p || strings.HasPrefix(pkg, p+"/") })
	}
}

func not(packages ...string) func(string) bool {
	return func(pkg string) bool { return !in(packages...)(pkg) }
}

type goPackage struct {
	ImportPath, Dir, Doc               string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports                            []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// name is the path of a package inside of the module.
func (p goPackage) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func TestImportsGoTheWayOfTheArchitecture(t *testing.T) {
	for _, p := range packages(t) {
		allowed := mayImport[p.name()]
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				if !slices.Contains(allowed.packages, "*") && !slices.Contains(allowed.packages, ours) {
					t.Errorf("%s imports %s, and may import %q: %s", p.name(), ours, allowed.packages, allowed.reason)
				}
				continue
			}
			for _, rule := range mayNotImport {
				// Single packages of the standard library stand for themselves.
				hit := imported == rule.imported || strings.Contains(rule.imported, ".") && strings.HasPrefix(imported, rule.imported+"/")
				if hit && !rule.except(p.name()) {
					t.Errorf("%s imports %s: %s", p.name(), imported, rule.reason)
				}
			}
		}
	}
}

func TestTheProgramHasNoTestSupport(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, p := range strings.Fields(string(out)) {
		if in("agent/netns", "bench", "deploy")(strings.TrimPrefix(p, module+"/")) {
			t.Errorf("the program contains %s, which is for tests", p)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, f := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Doc != nil {
				with = append(with, f)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("%s: package comments in %q, want one", p.name(), with)
		}
		if strings.Contains(p.Doc, "SPDX") {
			t.Errorf("%s: the license became the package comment", p.name())
		}
	}
}

// generated is what the go command says of generated files (go help generate).
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func TestFilesAreShortAndLicensed(t *testing.T) {
	const most = 400
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			path := filepath.Join(p.Dir, f)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			where := fmt.Sprintf("%s/%s", p.name(), f)
			if generated.Match(text) {
				continue
			}
			if n := bytes.Count(text, []byte("\n")); n > most {
				t.Errorf("%s has %d lines, more than %d: split it by concept", where, n, most)
			}
			if !bytes.HasPrefix(text, []byte("// SPDX-License-Identifier: ")) {
				t.Errorf("%s does not begin with its license", where)
			}
		}
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(makefile, []byte("\n")); n >= 100 {
		t.Errorf("the Makefile has %d lines, want less than 100: logic belongs into scripts", n)
	}
}
