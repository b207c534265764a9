// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"testing"

	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }
