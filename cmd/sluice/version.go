// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

func version(e *env, flags *flag.FlagSet, args []string) error {
	if err := parse(flags, args); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "sluice %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// release is the version that the linker was told (-X), as the image's build does.
var release string

// buildVersion is the release, else the module's version as the go command
// stamped it: a tag, or a pseudo-version with time and commit, with +dirty for
// uncommitted changes.
func buildVersion() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
