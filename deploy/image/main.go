// SPDX-License-Identifier: Apache-2.0

// Command image writes a container image of one layer and one or more platforms
// as an OCI archive, which "ctr images import", "podman load", "skopeo copy
// oci-archive:…" and "docker load" read. It needs no Docker, and the same files
// give the same bytes.
//
//	image [-platforms linux/amd64,linux/arm64] [-roots] [-sbom VERSION] OUT.tar REFERENCE FILE[=/PATH/IN/IMAGE] ...
//
// The first file is the entry point; files are put into / if no path is given.
// {arch} in a file's name is replaced with the architecture of each platform.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is asked for.
type order struct {
	platforms []v1.Platform
	roots     bool   // with the CA certificates of the web
	sbom      string // the version that a bill of materials tells, "" for none
	out       string
	reference name.Tag
	files     []string
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(2)
	}
	if err := o.write(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*order, error) {
	var o order
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	platforms := flags.String("platforms", "linux/"+runtime.GOARCH, "comma-separated `platforms`")
	flags.BoolVar(&o.roots, "roots", false, "add the CA certificates of the web as "+rootsPath)
	flags.StringVar(&o.sbom, "sbom", "", "add a bill of materials of the first file, as of this `version`, as "+sbomPath+" and beside OUT")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() < 3 {
		return nil, fmt.Errorf("OUT.tar, REFERENCE and at least one FILE are needed")
	}
	for p := range strings.SplitSeq(*platforms, ",") {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			return nil, err
		}
		o.platforms = append(o.platforms, *platform)
	}
	var err error
	if o.reference, err = name.NewTag(flags.Arg(1)); err != nil {
		return nil, err
	}
	o.out, o.files = flags.Arg(0), flags.Args()[2:]
	return &o, nil
}

// write writes the archive, prints the digest and sizes, and writes the bills of
// materials.
func (o *order) write() error {
	images := v1.ImageIndex(empty.Index)
	var report strings.Builder
	for _, p := range o.platforms {
		image, size, err := o.image(p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		compressed, err := compressedSize(image)
		if err != nil {
			return err
		}
		fmt.Fprintf(&report, "  %s: %.1f MB, %.1f MB compressed\n", p, float64(size)/1e6, float64(compressed)/1e6)
		images = mutate.AppendManifests(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &p}})
	}
	images = mutate.IndexMediaType(images, types.OCIImageIndex)
	digest, err := images.Digest()
	if err != nil {
		return err
	}
	if err := archive(images, o.reference, o.out); err != nil {
		return err
	}
	fmt.Printf("%s %s\n%s", o.reference, digest, report.String())
	return nil
}

func (o *order) image(p v1.Platform) (v1.Image, int, error) {
	files, err := o.contents(p)
	if err != nil {
		return nil, 0, err
	}
	contents, err := layerOf(files)
	if err != nil {
		return nil, 0, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(contents)), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, 0, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		return nil, 0, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, 0, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	config.Config = v1.Config{Entrypoint: []string{files[0].path}, Env: []string{"PATH=/"}, WorkingDir: "/"}
	image, err = mutate.ConfigFile(image, config)
	return image, len(contents), err
}

// A file of the image.
type file struct {
	path string
	mode fs.FileMode
	data []byte
}

func (o *order) contents(p v1.Platform) ([]file, error) {
	var files []file
	for _, f := range o.files {
		from, to, ok := strings.Cut(strings.ReplaceAll(f, "{arch}", p.Architecture), "=")
		if !ok {
			to = "/" + path.Base(from)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(from)
		if err != nil {
			return nil, err
		}
		// What the umask of whoever built it took away does not count.
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		files = append(files, file{to, mode, data})
	}
	if o.roots {
		files = append(files, file{rootsPath, 0o644, roots()})
	}
	if o.sbom != "" {
		bill, err := billOf(files[0].data, o.sbom, p)
		if err != nil {
			return nil, err
		}
		files = append(files, file{sbomPath, 0o644, bill})
		beside := strings.TrimSuffix(o.out, ".tar") + "-" + p.Architecture + ".cdx.json"
		if err := os.WriteFile(beside, bill, 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// layerOf returns the layer that holds the files, and an empty /tmp.
func layerOf(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := writeFile(w, strings.TrimPrefix(f.path, "/"), f.mode, f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func writeFile(w *tar.Writer, name string, mode fs.FileMode, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: int64(len(data))}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// archive writes an image layout as a tar file, with the two annotations by
// which containerd, and all others, find the image's name.
func archive(images v1.ImageIndex, reference name.Tag, out string) error {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder of temporary files
	// What this library calls index.docker.io is docker.io to containerd.
	full := strings.Replace(reference.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := written.AppendIndex(images, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          full,
		"org.opencontainers.image.ref.name": reference.TagStr(),
	})); err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// WalkDir goes in the order of the names.
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		in, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return writeFile(w, in, 0o644, data)
	}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}

func compressedSize(image v1.Image) (int64, error) {
	layers, err := image.Layers()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}
