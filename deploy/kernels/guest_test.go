// SPDX-License-Identifier: Apache-2.0

//go:build kernels

package kernels

import (
	"bufio"
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
	"testing"
	"time"
)

// told is what a guest has told.
type told struct {
	release string
	jobs    map[string]*result
	console string
	failure error
}

// patience bounds a guest's life. Emulated, and on a busy machine, tests take
// fifty times as long.
const patience = 2 * time.Hour

// machines are those that qemu emulates, by architecture: how, the serial port that
// the kernel writes its log to, and a second one, which is a device of this type.
var machines = map[string]struct {
	qemu                  []string
	console, port, device string
}{
	"amd64": {[]string{"qemu-system-x86_64", "-cpu", "max"}, "ttyS0", "/dev/ttyS1", "isa-serial"},
	// The architecture's own algorithm for pointer authentication is slow to emulate.
	"arm64": {[]string{"qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"}, "ttyAMA0", "/dev/ttyS0", "pci-serial"},
}

// boot starts the kernel of an image with the jobs and returns when the machine
// is off.
func boot(t *testing.T, arch, image, programs string, jobs []job) told {
	t.Helper()
	dir := t.TempDir()
	kernel := only(t, filepath.Join(image, "boot", "vmlinuz-*"))
	initramfs := filepath.Join(dir, "initramfs")
	if err := pack(t, initramfs, image, programs, jobs); err != nil {
		t.Fatal(err)
	}
	console, events := filepath.Join(dir, "console"), filepath.Join(dir, "events")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	machine := machines[arch]
	qemu := exec.CommandContext(ctx, machine.qemu[0], slices.Concat(machine.qemu[1:], []string{"-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + console,
		"-chardev", "file,id=events,path=" + events, "-device", machine.device + ",chardev=events",
		"-kernel", kernel, "-initrd", initramfs,
		// A guest that waits for a busy machine is no fault of its kernel.
		"-append", "console=" + machine.console + " panic=-1 mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 -- " + machine.port})...)
	out, err := qemu.CombinedOutput()
	var g told
	g.read(t, events)
	if text, readErr := os.ReadFile(console); readErr == nil {
		g.console = strings.ToValidUTF8(string(text), "?")
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v", patience)
	}
	if err != nil {
		g.failure = errors.Join(g.failure, fmt.Errorf("qemu: %w: %s", err, out))
	}
	return g
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %d files, want one: %v", pattern, len(files), err)
	}
	return files[0]
}

func (g *told) read(t *testing.T, events string) {
	t.Helper()
	g.jobs = map[string]*result{}
	f, err := os.Open(events)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := false
	for d := json.NewDecoder(f); ; {
		var e Event
		if err := d.Decode(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				g.failure = errors.Join(g.failure, fmt.Errorf("what the guest tells: %w", err))
			}
			break
		}
		if e.Release != "" {
			g.release = e.Release
		}
		if e.Failure != "" {
			g.failure = errors.Join(g.failure, fmt.Errorf("guest: %s", e.Failure))
		}
		done = done || e.Done
		if e.Job == "" {
			continue
		}
		r := g.jobs[e.Job]
		if r == nil {
			r = &result{}
			g.jobs[e.Job] = r
		}
		switch {
		case e.Exit != nil:
			r.exit = e.Exit
		case e.Figures != nil:
			entry, err := decode(e.Figures)
			if err != nil {
				g.failure = errors.Join(g.failure, fmt.Errorf("figures: %w", err))
			}
			r.figures = append(r.figures, entry)
		default:
			r.lines = append(r.lines, e.Line)
		}
	}
	if !done {
		g.failure = errors.Join(g.failure, errors.New("the guest went off before it was done"))
	}
}

// pack writes the guest's files: an initramfs, not compressed.
func pack(t *testing.T, to, image, programs string, jobs []job) error {
	t.Helper()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	a := archive{w: bufio.NewWriter(f)}
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "bin", "modules", "figures"} {
		a.add(dir, modeDir|0o755, nil)
	}
	names := map[string]string{"init": "init", "sluice": "bin/sluice", "splice.test": "bin/splice.test", "agent.test": "bin/agent.test"}
	for from, to := range names {
		a.addFile(to, filepath.Join(programs, from))
	}
	for _, name := range Modules {
		a.add("modules/"+name+".ko", modeFile|0o644, module(t, image, name))
	}
	var work []Job
	for _, j := range jobs {
		work = append(work, Job{j.name, j.command})
	}
	text, err := json.Marshal(work)
	if err != nil {
		return err
	}
	a.add(strings.TrimPrefix(JobsFile, "/"), modeFile|0o644, text)
	return errors.Join(a.end(), f.Close())
}

// module finds a module, in whatever way the image has it.
func module(t *testing.T, image, name string) (content []byte) {
	t.Helper()
	err := filepath.WalkDir(image, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == name+".ko":
			content, err = os.ReadFile(path)
		case d.Name() == name+".ko.xz":
			content = []byte(run(t, "", "xz", "--decompress", "--stdout", path))
		}
		return err
	})
	if err != nil || content == nil {
		t.Fatalf("no module %s in the image: %v", name, err)
	}
	return content
}

// archive writes a cpio archive as the kernel takes it: see
// Documentation/driver-api/early-userspace/buffer-format.rst, format "newc".
type archive struct {
	w     *bufio.Writer
	inode int
	err   error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (a *archive) add(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	fmt.Fprintf(a.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.padded([]byte(name+"\x00"), 110)
	a.padded(content, 0)
}

// padded writes b and zeros up to four bytes' boundary, which `before` bytes precede.
func (a *archive) padded(b []byte, before int) {
	if _, err := a.w.Write(b); err != nil {
		a.err = err
		return
	}
	_, a.err = a.w.Write(make([]byte, -(before+len(b))&3))
}

func (a *archive) addFile(name, from string) {
	content, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, modeFile|0o755, content)
}

func (a *archive) end() error {
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, a.w.Flush())
}
