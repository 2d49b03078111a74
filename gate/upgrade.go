package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"gatehouse/policy"
	"gatehouse/routes"
)

// An application's server hands a request that upgrades to a WebSocket to another router than a GET for the same path, and
// servers disagree about which request that is: uvicorn wants Connection to list "upgrade" and Upgrade to be "websocket", daphne
// looks at Upgrade alone, gunicorn at neither. A request that all of them read alike goes on, as one or the other; the rest is refused.
//
// Envoy shows an upgrade of HTTP/1.1 as it came (GET, Upgrade, Connection), and an extended CONNECT of HTTP/2 (RFC 8441) in the
// same way. It joins header lines of one name.

var errUpgrade = errors.New("the request may or may not open a WebSocket: Upgrade, Connection and Sec-WebSocket-Key do not agree")

// tableMethod is the method by which a route table is asked: the request's own, or routes.WebSocket.
func tableMethod(req *Request) (string, error) {
	if len(req.Method) >= len(routes.WebSocket) && strings.EqualFold(req.Method, routes.WebSocket) {
		return "", fmt.Errorf("%s is no method of HTTP: it stands for upgrades in route tables", routes.WebSocket)
	}
	if !isUpgrade(req) {
		return req.Method, nil
	}
	var upgrades, connections int
	clear := req.Method == http.MethodGet
	for i := range req.Headers {
		switch h := &req.Headers[i]; h.Name {
		case "upgrade":
			upgrades++
			clear = clear && strings.EqualFold(h.Value, "websocket")
		case "connection":
			connections++
			clear = clear && listsToken(h.Value, "upgrade")
		case ":protocol":
			clear = false
		}
	}
	if !clear || upgrades != 1 || connections != 1 {
		return "", errUpgrade
	}
	return routes.WebSocket, nil
}

// isUpgrade reports whether anything about the request speaks of a WebSocket.
func isUpgrade(req *Request) bool {
	for i := range req.Headers {
		switch h := &req.Headers[i]; h.Name {
		case "upgrade", ":protocol":
			if mentions(h.Value, "websocket") {
				return true
			}
		case "sec-websocket-key":
			return true
		}
	}
	return false
}

// mentions reports whether s contains the word, in any case of ASCII letters.
func mentions(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// listsToken reports whether a comma-separated list has the token.
func listsToken(list, token string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), token) {
			return true
		}
	}
	return false
}

// askAll asks the rule of each route that may take the request: the application passes a route by where its own code refuses a
// parameter. All of them must allow, and alike, for nobody knows which of them serves it. The first that does not is the answer.
func (g *Gate) askAll(ctx context.Context, c *call) error {
	c.first, c.may = c.match.Route, c.match.Also
	var decision policy.Decision
	var rule *rule
	var remembered bool
	err := c.eachRoute(func() error {
		if err := g.ask(ctx, c); err != nil {
			return err
		}
		if rule == nil {
			decision, rule, remembered = c.decision, c.rule, c.remembered
		} else if !alike(&decision, &c.decision) {
			return fail(PolicyError, fmt.Errorf("routes %q and %q may both take the request, and their rules allow it with different headers or "+
				"query parameters", c.first.Template, c.match.Route.Template))
		}
		return nil
	})
	if err == nil {
		c.decision, c.rule, c.remembered, c.described = decision, rule, remembered, false // the entry is about the first
	}
	return err
}

// eachRoute asks about every route that may take the request, the matched one first, until an error ends it.
func (c *call) eachRoute(ask func() error) error {
	first := c.match
	if err := ask(); err != nil {
		return err
	}
	for _, c.match = range first.Also {
		if err := ask(); err != nil {
			return err
		}
	}
	c.match = first
	return nil
}

// alike reports whether two decisions that allow do the same to a request. What they asked, and how they say it, may differ.
func alike(a, b *policy.Decision) bool {
	return slices.Equal(a.Headers, b.Headers) && slices.Equal(a.ResponseHeaders, b.ResponseHeaders) && slices.Equal(a.RemoveHeaders, b.RemoveHeaders) &&
		slices.Equal(a.SetQuery, b.SetQuery) && slices.Equal(a.RemoveQuery, b.RemoveQuery) && reflect.DeepEqual(a.Metadata, b.Metadata)
}
