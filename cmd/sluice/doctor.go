// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// finding is one row of sluice doctor.
type finding struct {
	name, detail string
	ok           bool
	cure         string // when not ok
}

// doctor looks at the machine and then tries the splice in earnest, as the
// gateway does at its start. It needs no gateway and disturbs none. Its exit
// status is 1 where there is no splice; the gateway serves there all the same.
func doctor(e *env, flags *flag.FlagSet, args []string) error {
	cgroup := flags.String("cgroup", "", "cgroup2 `folder` of the backends to splice into (default the root of cgroup2)")
	if err := parse(flags, args); err != nil {
		return err
	}
	findings := []finding{kernel(), btf(), capabilities(), cgroup2(*cgroup), bpffs(), descriptors(), memory(), aesGCM()}
	s, err := splice.Open(splice.Options{Cgroup: *cgroup, Log: slog.New(slog.DiscardHandler)})
	var report splice.Report
	if u, ok := errors.AsType[*splice.Unavailable](err); ok {
		report = u.Report
	} else if err == nil {
		report = s.SelfTest()
		err = s.Close()
	}
	for _, c := range report.Checks {
		findings = append(findings, finding{name: c.Name, detail: c.Detail, ok: c.OK,
			cure: "this kernel cannot be trusted with the splice; a newer one may"})
	}

	t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		mark := "ok"
		if !f.ok {
			mark = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", mark, f.name, f.detail)
		if !f.ok && f.cure != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", f.cure)
		}
	}
	if flushErr := t.Flush(); flushErr != nil {
		return flushErr
	}
	if err != nil {
		fmt.Fprintf(e.stdout, "\nRelay mode: %s\nThe gateway serves here without the splice.\n", err)
		return errWrong
	}
	fmt.Fprintln(e.stdout, "\nThe splice works on this machine.")
	return nil
}

func kernel() finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return finding{name: "kernel", detail: err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	// tp_btf/sock_recv_length came with 6.3; what counts are the tries below.
	return finding{name: "kernel", detail: "Linux " + release, ok: err == nil && (major > 6 || major == 6 && minor >= 3),
		cure: "the splice needs Linux 6.3, and was proved on 6.12 and newer"}
}

func btf() finding {
	const path = "/sys/kernel/btf/vmlinux"
	_, err := os.Stat(path)
	return finding{name: "BTF", detail: path, ok: err == nil, cure: "the kernel must be built with CONFIG_DEBUG_INFO_BTF"}
}

func capabilities() finding {
	missing, err := splice.MissingCapabilities()
	switch {
	case err != nil:
		return finding{name: "capabilities", detail: err.Error()}
	case len(missing) > 0:
		return finding{name: "capabilities", detail: "missing " + strings.Join(missing, ", "),
			cure: "run as root, or grant them: AmbientCapabilities= of systemd, securityContext.capabilities.add of a pod"}
	}
	return finding{name: "capabilities", detail: "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or CAP_SYS_ADMIN for them", ok: true}
}

func cgroup2(dir string) finding {
	if dir != "" {
		return mounted("cgroup2", unix.CGROUP2_SUPER_MAGIC, "give -cgroup a folder of cgroup2, below /sys/fs/cgroup or /sys/fs/cgroup/unified", dir)
	}
	root, err := splice.CgroupRoot()
	if err != nil {
		return finding{name: "cgroup2", detail: err.Error(), cure: "mount -t cgroup2 none /sys/fs/cgroup"}
	}
	return finding{name: "cgroup2", detail: root, ok: true}
}

func bpffs() finding {
	return mounted("bpffs", unix.BPF_FS_MAGIC,
		"mount -t bpf bpf /sys/fs/bpf (the splice works without; bpftool does not find its maps by name)", "/sys/fs/bpf")
}

// mounted looks for a file system at one of some places.
func mounted(name string, magic int64, cure string, places ...string) finding {
	for _, p := range places {
		var fs unix.Statfs_t
		if err := unix.Statfs(p, &fs); err == nil && int64(fs.Type) == magic {
			return finding{name: name, detail: p, ok: true}
		}
	}
	return finding{name: name, detail: "not at " + strings.Join(places, " or "), cure: cure}
}

func descriptors() finding {
	limit, err := agent.Harden()
	if err != nil {
		return finding{name: "descriptors", detail: err.Error()}
	}
	// A connection takes two, and what is not a connection takes few.
	return finding{name: "descriptors", detail: fmt.Sprintf("%d, enough for %d connections", limit, limit/2), ok: limit >= 4096,
		cure: "raise the hard limit: LimitNOFILE= of systemd, ulimit -Hn"}
}

// memory tells how many connections the limit of the cgroup is enough for: measured were
// 20 MiB, and 10 KiB for each, sockets and maps of the kernel among them.
func memory() finding {
	limit := agent.MemoryLimit()
	if limit == math.MaxInt64 {
		return finding{name: "memory", detail: "no limit of a cgroup", ok: true}
	}
	return finding{name: "memory", detail: fmt.Sprintf("%d MiB, enough for about %d connections", limit>>20, max(limit/10*9-20<<20, 0)/(10<<10)), ok: limit >= 64<<20,
		cure: "give the cgroup 64 MiB or more: resources.limits of the container, MemoryMax= of systemd"}
}

func aesGCM() finding {
	if why := gcm.Reason(); why != "" {
		return finding{name: "AES-GCM", detail: why,
			cure: "nothing need be done: crypto/cipher does it, and takes more than twice as long for it"}
	}
	return finding{name: "AES-GCM", detail: "kernels for VAES and AVX-512 passed their self-test", ok: true}
}
