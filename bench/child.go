// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// parts are the other processes of a run: this program with one of these
// words as its only argument. They speak JSON on their standard input and
// output and end with their standard input, however their parent ends.
var parts = map[string]func(*json.Decoder, *json.Encoder) error{
	"part:backend": backendMain,
	"part:load":    loadMain,
	"part:spin":    spinMain,
}

// naivePart is the naive proxy: a peer, so it is told its site by a file and
// ends by a signal.
const naivePart = "part:naive"

// runPart is main in a child process. It returns false in the parent.
func runPart(args []string) bool {
	if len(args) == 3 && args[1] == naivePart {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", naivePart, naiveMain(args[2]))
		os.Exit(1)
	}
	if len(args) != 2 || parts[args[1]] == nil {
		return false
	}
	if err := parts[args[1]](json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", args[1], err)
		os.Exit(1)
	}
	return true
}

// child is a running part.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
}

// startChild starts a part, in a network namespace unless ns is nil. The end
// of ctx kills it. The caller closes it.
func startChild(ctx context.Context, part string, ns *netns.NS) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, part)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := cmd.Start
	if ns != nil {
		start = func() error { return ns.Do(cmd.Start) } // a child is born into its thread's namespace
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	return &child{cmd, in, json.NewEncoder(in), json.NewDecoder(out)}, nil
}

// send gives the part a message.
func (c *child) send(message any) error { return c.enc.Encode(message) }

// receive waits for a message of the part.
func (c *child) receive(message any) error { return c.dec.Decode(message) }

func (c *child) pid() int { return c.cmd.Process.Pid }

// Close ends the part and waits for it.
func (c *child) Close() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }
