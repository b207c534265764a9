// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// site is what all tests share.
var site struct {
	dir    string
	binary string // sluice
	identities
}

func TestMain(m *testing.M) {
	if conf := os.Getenv(bareEnv); conf != "" {
		fatal(bare(conf))
	}
	if subject := os.Getenv(shimEnv); subject != "" {
		os.Exit(shimMain(subject, os.Args[1:]))
	}
	if os.Getenv(tlsfuzzerEnv) == "" {
		fmt.Printf("tlsfuzzer is not run: %s does not name a folder with its sources, which neither Debian nor PyPI has.\n", tlsfuzzerEnv)
	}
	code, err := prepared(m.Run)
	fatal(err)
	os.Exit(code)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func prepared(run func() int) (code int, err error) {
	if site.dir, err = os.MkdirTemp("", "sluice-protocol-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(site.dir)
	if site.identities, err = newIdentities(site.dir); err != nil {
		return 0, err
	}
	site.binary = filepath.Join(site.dir, "sluice")
	if out, err := exec.Command("go", "build", "-o", site.binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w\n%s", err, out)
	}
	return run(), nil
}
