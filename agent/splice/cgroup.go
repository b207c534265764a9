// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// CgroupRoot returns where cgroup2 is mounted, with the most of it: the default of
// Options.Cgroup.
func CgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", unavailable(ReasonCgroup, "list mounts: %w", err)
	}
	defer f.Close()
	dir, err := parseCgroupRoot(f)
	if err != nil {
		return "", unavailable(ReasonCgroup, "%w", err)
	}
	return dir, nil
}

// parseCgroupRoot picks the cgroup2 mount that shows the most: one of what is around the
// process's cgroup namespace (/.., as a container has the node's beside its own), then one
// of the whole hierarchy, then one of a part. See proc(5) for the format of mountinfo, and
// cgroup_namespaces(7) for the roots.
func parseCgroupRoot(mountinfo io.Reader) (string, error) {
	most, best := "", -1
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, fs, found := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if !found || len(fields) < 5 || !strings.HasPrefix(fs, "cgroup2 ") {
			continue
		}
		root, dir := fields[3], unescapeMount(fields[4])
		shows := 0
		switch {
		case strings.HasPrefix(root, "/.."):
			shows = 1 + strings.Count(root, "/")
		case root == "/":
			shows = 1
		}
		if shows > best {
			most, best = dir, shows
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	if most == "" {
		return "", errors.New("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
	}
	return most, nil
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
