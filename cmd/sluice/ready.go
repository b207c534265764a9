// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sluice-gateway/sluice/agent"
)

// ready tells, for probes, whether the agent of this pod serves. /readyz cannot:
// during a take-over the agent before it answers there, for both.
func ready(e *env, flags *flag.FlagSet, args []string) error {
	admin := flags.String("admin", defaultAdmin(), "`path` of the admin socket")
	if err := parse(flags, args); err != nil {
		return err
	}
	raw, err := ask(*admin, "status")
	if err != nil {
		return err
	}
	var s agent.Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	pod := os.Getenv("POD_NAME")
	switch {
	case s.Instance != pod:
		return fmt.Errorf("%s serves, %s has not taken over yet", cmp.Or(s.Instance, "another agent"), cmp.Or(pod, "this one"))
	case s.Snapshot == "":
		return errors.New("no snapshot yet")
	case s.Draining:
		return errors.New("draining")
	}
	fmt.Fprintln(e.stdout, "ready")
	return nil
}
