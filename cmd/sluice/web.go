// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"net/url"
	"time"

	"github.com/sluice-gateway/sluice/controller"
)

const defaultWeb = "127.0.0.1:9465"

// subject is what a page is about.
type subject struct {
	// nodes gets the agent.Overview of each node, with the connections that a
	// search finds, every so often.
	nodes func(ctx context.Context, search string) ([]nodeAnswer, error)
	every time.Duration
	// cluster is the address of an API server, "" for one machine. objects gets what
	// it says of objects, which one machine says itself.
	cluster string
	objects func(ctx context.Context) (resourceStatus, error)
}

// web shows a page about the gateway of this machine until it is interrupted.
func web(e *env, flags *flag.FlagSet, args []string) error {
	admin := flags.String("admin", defaultAdmin(), "`path` of the admin socket")
	listen := flags.String("listen", defaultWeb, "`address` of this machine for the page")
	output := flags.String("o", "page", "output `format`: page, or json for what it shows now")
	search := flags.String("search", "", "with -o json, `words` that connections have in a name, an address, a path or a reason")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "page", "json"); err != nil {
		return err
	}
	ask := func(_ context.Context, search string) ([]nodeAnswer, error) {
		raw, err := ask(*admin, "overview?search="+url.QueryEscape(search))
		if err != nil {
			return nil, err
		}
		return []nodeAnswer{{Answer: raw}}, nil
	}
	if *output == "json" {
		answers, err := ask(e.ctx, *search)
		if err != nil {
			return err
		}
		return printRaw(e.stdout, answers[0].Answer, *output)
	}
	if _, err := ask(e.ctx, ""); err != nil {
		return err
	}
	return serveWeb(e, *listen, subject{nodes: ask, every: time.Second})
}

// clusterWeb shows a page about all nodes, from this machine and with the rights
// of who runs it.
func clusterWeb(e *env, flags *flag.FlagSet, args []string) error {
	var access clusterAccess
	access.register(flags)
	listen := flags.String("listen", defaultWeb, "`address` of this machine for the page")
	if err := parse(flags, args); err != nil {
		return err
	}
	config, err := access.config()
	if err != nil {
		return err
	}
	ask := func(ctx context.Context, search string) ([]nodeAnswer, error) {
		return access.ask(ctx, []string{"web", "-o", "json", "-search", search})
	}
	if _, err := ask(e.ctx, ""); err != nil {
		return err
	}
	objects := func(ctx context.Context) (resourceStatus, error) {
		r, statuses, err := controller.Statuses(ctx, config, access.namespace)
		return resourceStatus{Listeners: listenerSpecs(&r), Objects: statuses}, err
	}
	return serveWeb(e, *listen, subject{ask, 5 * time.Second, config.Host, objects})
}
