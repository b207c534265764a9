// SPDX-License-Identifier: Apache-2.0

// Command sluice is the gateway and everything that asks it something.
//
//	sluice run DIR     serve what the YAML files of a folder describe
//	sluice agent       serve, on a node of a cluster, what the controller publishes
//	sluice controller  decide, for all nodes of a cluster, what they serve
//	sluice status      show gateways, routes, certificates and what is wrong
//	sluice conns       show the open connections
//	sluice web         show all of that as a page
//	sluice certs       show which certificate a server name gets
//	sluice explain     say what became of a route, or would of a connection
//	sluice probe       connect as a client and say what it sees
//	sluice lint        check files before they are served
//	sluice ready       tell whether the agent of this pod, or machine, serves
//	sluice doctor      check what the splice needs on this machine
//	sluice version     print the version
//
// Exit status: 0 when all is well, 1 when something is wrong, 2 when the
// command line is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// command is a verb of the command line.
type command struct {
	name, args, short string
	run               func(env *env, flags *flag.FlagSet, args []string) error
}

var commands = []command{
	{"run", "DIR", "serve what the YAML files of a folder describe", run},
	{"agent", "", "serve, on a node of a cluster, what the controller publishes", clusterAgent},
	{"controller", "", "decide, for all nodes of a cluster, what they serve", clusterController},
	{"status", "", "show gateways, routes, certificates and what is wrong", status},
	{"conns", "", "show the open connections", conns},
	{"web", "", "show all of that as a page, live", web},
	{"certs", "[NAME]", "show which certificate a server name gets", certs},
	{"explain", "WHAT", "say what became of a route, or would of a connection", explain},
	{"probe", "HOST:PORT", "connect as a client and say what it sees", probe},
	{"lint", "", "check files before they are served", lint},
	{"ready", "", "tell whether the agent of this pod, or machine, serves", ready},
	{"doctor", "", "check what the splice needs on this machine", doctor},
	{"version", "", "print the version", version},
}

// env is what a command touches of the process.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// usageError is a mistake in the command line: one line, exit status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

// errWrong ends a command with exit status 1 after it said why.
var errWrong = errors.New("something is wrong")

func main() {
	os.Exit(start(&env{context.Background(), os.Stdout, os.Stderr}, os.Args[1:]))
}

// start runs the command that args name and returns the exit status.
func start(e *env, args []string) int {
	name, all := "sluice", commands
	if isPlugin() {
		name, all = "kubectl sluice", pluginCommands
	}
	if len(args) == 0 {
		printUsage(e.stderr, name, all)
		return 2
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		printUsage(e.stdout, name, all)
		return 0
	}
	for _, c := range all {
		if c.name == args[0] {
			return c.start(e, name, args[1:])
		}
	}
	fmt.Fprintf(e.stderr, "%s: no command %q (see %s help)\n", name, args[0], name)
	return 2
}

func (c command) start(e *env, name string, args []string) int {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	err := c.run(e, flags, args)
	var wrongUsage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errWrong):
		return 1
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(e.stdout, "usage: %s\n\n%s.\n", strings.TrimSpace(name+" "+c.name+" [flags] "+c.args), c.short)
		flags.SetOutput(e.stdout)
		flags.PrintDefaults()
		return 0
	case errors.As(err, &wrongUsage):
		fmt.Fprintf(e.stderr, "%s %s: %s (see %s %s -h)\n", name, c.name, wrongUsage, name, c.name)
		return 2
	}
	fmt.Fprintf(e.stderr, "%s %s: %s\n", name, c.name, plain(err.Error(), ""))
	return 1
}

// parse parses flags, before and behind arguments as kubectl takes them, and
// checks that want arguments remain, each described by a word.
func parse(flags *flag.FlagSet, args []string, want ...string) error {
	rest := []string{"--"}
	for {
		if err := flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return usageError(err.Error() + hint(flags, err.Error()))
		}
		if flags.NArg() == 0 {
			break
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
	_ = flags.Parse(rest) // there is none among them
	need := len(want)
	if need > 0 && strings.HasPrefix(want[need-1], "[") {
		need--
	}
	switch {
	case flags.NArg() < need:
		return usageError("missing argument " + want[flags.NArg()])
	case flags.NArg() > len(want):
		return usageError(fmt.Sprintf("unexpected argument %q", flags.Arg(len(want))))
	}
	return nil
}

// hint says what the value of a flag looks like, where err is that one is none.
func hint(flags *flag.FlagSet, err string) string {
	_, name, ok := strings.Cut(err, " for flag -")
	f := flags.Lookup(strings.SplitN(name, ":", 2)[0])
	if !ok || f == nil {
		return ""
	}
	switch kind, usage := flag.UnquoteUsage(f); kind {
	case "duration":
		return "; write it as in 30s, 5m or 1h"
	case "int":
		return "; write a whole number"
	default:
		return "; it is " + usage
	}
}

func printUsage(w io.Writer, name string, all []command) {
	fmt.Fprintf(w, "Sluice terminates TLS for TCP services and splices the decrypted bytes into their sockets.\n\nusage: %s COMMAND [flags] [ARGUMENT]\n\n", name)
	for _, c := range all {
		fmt.Fprintf(w, "  %-17s %s\n", strings.TrimSpace(c.name+" "+c.args), c.short)
	}
	fmt.Fprintf(w, "\n%s COMMAND -h shows the flags of a command.\n", name)
}
