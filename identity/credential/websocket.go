package credential

import "strings"

// WebsocketHeader is the only header that a script in a browser can set on a WebSocket's opening request.
const WebsocketHeader = "sec-websocket-protocol"

// fromProtocols finds the token behind a marker in Sec-WebSocket-Protocol (RFC 6455 section 11.3.4): new WebSocket(url,
// ["bearer", token]) sends "bearer, TOKEN". The marker can be there once, with a token behind it.
func fromProtocols(lines []string, marker string) (string, error) {
	token, marked, seen := "", false, false
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = strings.Trim(element, " \t")
			switch {
			case marked:
				token, marked = element, false
				if token == "" || strings.EqualFold(token, marker) {
					return "", errProtocols
				}
			case strings.EqualFold(element, marker):
				if seen {
					return "", errProtocols
				}
				marked, seen = true, true
			}
		}
	}
	if marked {
		return "", errProtocols
	}
	return token, nil
}

// WithoutProtocols gives a request's Sec-WebSocket-Protocol header without the tokens of these places. Each marker stays: a browser gives
// up on a connection for which the application chooses none of the protocols that it offered. found reports whether there was a token.
func WithoutProtocols(lines []string, places []Source) (rest string, found bool) {
	marks := func(element string) bool {
		for _, s := range places {
			if s.WebsocketProtocol != "" && strings.EqualFold(s.WebsocketProtocol, element) {
				return true
			}
		}
		return false
	}
	var kept []string
	marked := false
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			name := strings.Trim(element, " \t")
			if marked && name == "" {
				continue // a reader may skip what is empty, and so find the token behind it
			}
			if marked && !marks(name) {
				marked, found = false, true
				continue
			}
			marked = marks(name)
			kept = append(kept, name)
		}
	}
	return strings.Join(kept, ", "), found
}
