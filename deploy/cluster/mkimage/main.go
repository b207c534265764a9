// SPDX-License-Identifier: Apache-2.0

// Command mkimage writes a container image of one layer, as the archive that
// "ctr images import" and "docker load" read. It needs no Docker.
//
//	mkimage OUT.tar REFERENCE FILE[=/PATH/IN/IMAGE] ...
//
// The first file is the entry point; files are put into / if no path is given.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: mkimage OUT.tar REFERENCE FILE[=/PATH/IN/IMAGE] ...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

// entry is a file or, with a name that ends in a slash, a folder.
type entry struct {
	name string
	mode int64
	data []byte
}

func write(out, reference string, files []string) error {
	layer, entrypoint, err := layerOf(files)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z", // the same files are the same image
		"config":       map[string]any{"Entrypoint": []string{entrypoint}, "Env": []string{"PATH=/"}, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		return err
	}
	configName := sum(config) + ".json"
	manifest, err := json.Marshal([]map[string]any{
		{"Config": configName, "RepoTags": []string{reference}, "Layers": []string{"layer.tar"}},
	})
	if err != nil {
		return err
	}
	image, err := archive([]entry{{configName, 0o644, config}, {"layer.tar", 0o644, layer}, {"manifest.json", 0o644, manifest}})
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

// layerOf returns the layer that holds the files, and the first one's path.
func layerOf(files []string) (layer []byte, entrypoint string, err error) {
	entries := []entry{{"tmp/", 0o1777, nil}}
	for _, f := range files {
		from, to, ok := strings.Cut(f, "=")
		if !ok {
			to = "/" + path.Base(from)
		}
		if entrypoint == "" {
			entrypoint = to
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, "", err
		}
		info, err := os.Stat(from)
		if err != nil {
			return nil, "", err
		}
		entries = append(entries, entry{strings.TrimPrefix(to, "/"), int64(info.Mode().Perm()), data})
	}
	layer, err = archive(entries)
	return layer, entrypoint, err
}

func archive(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
