// SPDX-License-Identifier: Apache-2.0

// Guest is the first process of a virtual machine that runs tests on its kernel:
// it mounts what they need, runs them, tells by the serial port that its last
// argument names what they printed, and switches the machine off. See package kernels.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/deploy/kernels"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: only a virtual machine's first process may be this one: it switches the machine off")
		os.Exit(2)
	}
	err := mount()
	port, openErr := os.OpenFile(os.Args[len(os.Args)-1], os.O_WRONLY, 0)
	if openErr != nil {
		off(fmt.Sprintf("guest: %v", errors.Join(err, openErr)))
	}
	g := guest{json.NewEncoder(port)}
	if err == nil {
		err = g.run()
	}
	if err != nil {
		g.tell(kernels.Event{Failure: err.Error()})
	}
	g.tell(kernels.Event{Done: true})
	// What lies in the port's buffer goes out before its last descriptor is closed.
	_ = port.Close()
	off("guest: done")
}

func off(last string) {
	fmt.Println(last)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func mount() error {
	for _, m := range []struct{ fs, dir string }{
		{"devtmpfs", "/dev"},
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
		{"tracefs", "/sys/kernel/tracing"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fs, m.dir, err)
		}
	}
	return nil
}

type guest struct{ events *json.Encoder }

func (g guest) tell(e kernels.Event) {
	if err := g.events.Encode(e); err != nil {
		fmt.Println("guest: tell:", err)
	}
}

func (g guest) run() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	g.tell(kernels.Event{Release: unix.ByteSliceToString(u.Release[:])})
	for _, name := range kernels.Modules {
		if err := load("/modules/" + name + ".ko"); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback link: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 65536, Max: 65536}); err != nil {
		return fmt.Errorf("set the limit of descriptors: %w", err)
	}
	for name, value := range map[string]string{"PATH": "/bin", "HOME": "/tmp", figures.Dir: kernels.FiguresDir, "SLUICE_MAY_SET_CLOCK": "yes"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(kernels.JobsFile)
	if err != nil {
		return err
	}
	var jobs []kernels.Job
	if err := json.Unmarshal(text, &jobs); err != nil {
		return fmt.Errorf("%s: %w", kernels.JobsFile, err)
	}
	for _, job := range jobs {
		if err := g.do(job); err != nil {
			return fmt.Errorf("%s: %w", job.Name, err)
		}
	}
	return nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// do runs a job and tells what came of it, with its figures.
func (g guest) do(job kernels.Job) error {
	cmd := exec.Command(job.Command[0], job.Command[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		g.tell(kernels.Event{Job: job.Name, Line: lines.Text()})
	}
	if err := lines.Err(); err != nil {
		return err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	files, err := filepath.Glob(kernels.FiguresDir + "/*")
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.Remove(name)
		}
		if err != nil {
			return err
		}
		g.tell(kernels.Event{Job: job.Name, Figures: text})
	}
	status := cmd.ProcessState.ExitCode()
	g.tell(kernels.Event{Job: job.Name, Exit: &status})
	return nil
}
