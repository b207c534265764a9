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

// cgroupRoot returns where cgroup2 is mounted.
func cgroupRoot() (string, error) {
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

// parseCgroupRoot picks the cgroup2 mount that shows the most: one of the whole
// hierarchy before one of a part, the way a container has it. See proc(5) for
// the format of mountinfo.
func parseCgroupRoot(mountinfo io.Reader) (string, error) {
	part := ""
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, fs, found := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if !found || len(fields) < 5 || !strings.HasPrefix(fs, "cgroup2 ") {
			continue
		}
		root, dir := fields[3], unescapeMount(fields[4])
		if root == "/" {
			return dir, nil
		}
		if part == "" {
			part = dir
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	if part == "" {
		return "", errors.New("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
	}
	return part, nil
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
