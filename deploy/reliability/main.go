// SPDX-License-Identifier: Apache-2.0

// Reliability writes RELIABILITY.md: what is claimed, the test that would find it
// wrong, and what that test counted when it last ran. The figures are those that
// tests leave with SLUICE_FIGURES (package bench/figures).
//
// usage: reliability [FIGURES-FOLDER] >RELIABILITY.md
package main

import (
	"fmt"
	"os"

	"github.com/sluice-gateway/sluice/bench/figures"
)

func main() {
	dir := "deploy/reliability/figures"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	entries, err := figures.Read(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		os.Exit(1)
	}
	fmt.Print(page(claims, entries))
}
