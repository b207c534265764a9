// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// maxSize is what one platform's image may have, in bytes, not compressed.
const maxSize = 40_000_000

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// build copies the sources to a folder of their own, builds the image of both
// architectures there and returns the archive's path.
func build(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sources")
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = "../.."
	names, err := list.Output()
	if err != nil {
		t.Fatal("git ls-files:", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		from, to := filepath.Join("../..", name), filepath.Join(dir, name)
		data, err := os.ReadFile(from)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		} else if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "build", "sluice.tar")
	cmd := exec.Command(filepath.Join(dir, "deploy/image/build.sh"), out, "amd64", "arm64")
	cmd.Env = append(os.Environ(), "VERSION=v0.0.0-test", "IMAGE=example.com/sluice:test")
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("build.sh: %v\n%s", err, text)
	}
	t.Logf("%s", text)
	return out
}

func TestTheImage(t *testing.T) {
	archive := build(t)
	t.Run("is the same from another folder", func(t *testing.T) {
		same(t, archive, build(t))
	})
	for arch, images := range imagesOf(t, archive) {
		t.Run(arch, func(t *testing.T) {
			files, size := filesOf(t, images)
			t.Logf("%d bytes", size)
			if size > maxSize {
				t.Errorf("the layer has %d bytes, more than %d", size, int(maxSize))
			}
			program, bill := files["sluice"], files[strings.TrimPrefix(sbomPath, "/")]
			checkProgram(t, program, machines[arch])
			checkRuns(t, program, arch)
			checkBill(t, program, bill)
			beside, err := os.ReadFile(strings.TrimSuffix(archive, ".tar") + "-" + arch + ".cdx.json")
			if err != nil || !bytes.Equal(beside, bill) {
				t.Errorf("the bill of materials beside the archive is not the one in it (%v)", err)
			}
			if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(files[strings.TrimPrefix(rootsPath, "/")]) {
				t.Error("no CA certificates")
			}
		})
	}
}

// checkRuns runs the program of an image, emulated where this machine is another
// one. The emulator has no bpf(2): doctor says that the gateway serves without the
// splice, and why.
func checkRuns(t *testing.T, program []byte, arch string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	command := []string{path}
	if arch != runtime.GOARCH {
		emulator := map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}[arch]
		if _, err := exec.LookPath(emulator); err != nil {
			if os.Geteuid() == 0 {
				t.Fatalf("%v: deploy/packages.sh test installs it", err)
			}
			t.Skipf("not run: %v", err)
		}
		command = []string{emulator, path}
	}
	run := func(verb string) string {
		out, err := exec.Command(command[0], append(command[1:], verb)...).CombinedOutput() //nolint:gosec // the program under test
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out)
	}
	if out := run("version"); !strings.Contains(out, "v0.0.0-test") || !strings.Contains(out, "linux/"+arch) {
		t.Errorf("version says %q", out)
	}
	out := run("doctor")
	if !strings.Contains(out, "kernel") || !strings.Contains(out, "The splice works on this machine.") && !strings.Contains(out, "The gateway serves here without the splice.") {
		t.Errorf("doctor says:\n%s", out)
	}
	t.Logf("doctor:\n%s", out)
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// imagesOf unpacks the archive and returns its images by architecture.
func imagesOf(t *testing.T, archive string) map[string]v1.Image {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	dir := t.TempDir()
	for name, data := range untar(t, f) {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the archive has %d images, not one", len(manifest.Manifests))
	}
	one := manifest.Manifests[0]
	if name := one.Annotations["io.containerd.image.name"]; name != "example.com/sluice:test" {
		t.Errorf("the image's name is %q", name)
	}
	index, err := top.ImageIndex(one.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		if images[m.Platform.Architecture], err = index.Image(m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if len(images) != 2 || images["amd64"] == nil || images["arm64"] == nil {
		t.Fatalf("the archive has %v", manifest.Manifests)
	}
	return images
}

// filesOf returns the files of an image of one layer, and that layer's size.
func filesOf(t *testing.T, image v1.Image) (map[string][]byte, int) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return untar(t, bytes.NewReader(data)), len(data)
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if files[h.Name], err = io.ReadAll(in); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkProgram wants a program for the machine, that needs no library.
func checkProgram(t *testing.T, program []byte, machine elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != machine {
		t.Errorf("the program is for %v", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program is not static: it has %v", p.Type)
		}
	}
}

// checkBill wants all modules of the program in its bill of materials.
func checkBill(t *testing.T, program, bill []byte) {
	t.Helper()
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(bill), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range *bom.Components {
		listed[c.PackageURL] = true
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Error("the program knows none of its modules")
	}
	for _, d := range info.Deps {
		if url := fmt.Sprintf("pkg:golang/%s@%s", d.Path, d.Version); !listed[url] {
			t.Errorf("the bill of materials lacks %s", url)
		}
	}
	if got := bom.Metadata.Component.Version; got != "v0.0.0-test" {
		t.Errorf("the bill of materials is of version %q", got)
	}
}
