// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// DefaultPinDir is where the maps of the first gateway of a machine are pinned;
// those of further ones are in directories below it.
const DefaultPinDir = "/sys/fs/bpf/sluice"

// pins are the maps in a bpffs, for people with bpftool. They are not state:
// nothing reads them back, and leftovers of a killed agent are removed by the
// next one. A lock on the directory says that its owner lives.
type pins struct {
	dir   string
	lock  *os.File
	names []string
}

// pin pins the maps below base. On error nothing is left pinned.
func pin(base string, maps map[string]*ebpf.Map) (_ *pins, err error) {
	var fsInfo unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(base), &fsInfo); err != nil || fsInfo.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("pin maps in %s: no bpffs there: mount -t bpf bpf /sys/fs/bpf, and give a folder in it", base)
	}
	p, err := claim(base)
	if err != nil {
		return nil, fmt.Errorf("pin maps in %s: %w", base, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for name, m := range maps {
		path := filepath.Join(p.dir, name)
		if err := m.Pin(path); err != nil {
			return nil, fmt.Errorf("pin map %s: %w", path, err)
		}
		p.names = append(p.names, name)
		if err := os.Chmod(path, 0o440); err != nil {
			return nil, fmt.Errorf("pin map: %w", err)
		}
	}
	return p, nil
}

// claim locks base, or, when another gateway has it, a new directory below it.
// What dead gateways left behind is removed.
func claim(base string) (*pins, error) {
	for {
		if err := os.MkdirAll(base, 0o755); err != nil {
			return nil, err
		}
		lock, err := lockDir(base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by a gateway that just ended
		}
		taken := errors.Is(err, unix.EWOULDBLOCK)
		if err != nil && !taken {
			return nil, err
		}
		if err := sweep(base, !taken); err != nil {
			return nil, errors.Join(err, closeLock(lock))
		}
		if !taken {
			return &pins{dir: base, lock: lock}, nil
		}
		dir, err := os.MkdirTemp(base, "gateway")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err == nil {
			lock, err = lockDir(dir)
		}
		if err == nil {
			return &pins{dir: dir, lock: lock}, nil
		}
		// Another gateway's sweep was faster than our lock.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
	}
}

// sweep removes what nobody's lock protects: directories below base, and, if
// base is ours, the pins in it.
func sweep(base string, ours bool) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(base, e.Name())
		if !e.IsDir() {
			if ours {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
			continue
		}
		lock, err := lockDir(path)
		if err != nil {
			continue // its owner lives, or has just removed it
		}
		if err := errors.Join(os.RemoveAll(path), closeLock(lock)); err != nil {
			return err
		}
	}
	return nil
}

// lockDir locks a directory. It returns fs.ErrNotExist when the directory was
// removed before it could be locked, and EWOULDBLOCK when it has an owner.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	now, err := os.Stat(dir)
	if err == nil {
		var locked os.FileInfo
		if locked, err = f.Stat(); err == nil && !os.SameFile(now, locked) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func closeLock(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// close removes the pins, and the directory unless another gateway lives below.
func (p *pins) close() error {
	var errs []error
	for _, name := range p.names {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin map: %w", err))
		}
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, fmt.Errorf("unpin maps: %w", err))
	}
	return errors.Join(append(errs, p.lock.Close())...)
}
