// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

func reuseAddr(raw syscall.RawConn) error {
	var set error
	err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, set)
}
