package control

import (
	"errors"
	"net/http"

	"connectrpc.com/connect"

	"gatehouse/control/scim"
	"gatehouse/control/store"
)

// scim is the server for identity providers. It has tokens and limits as the API has them.
func (s *Server) scim() http.Handler {
	return scim.New(scim.Config{Store: s.store, Logger: s.logger, Authenticate: func(r *http.Request) (*store.Token, int, error) {
		ctx, err := s.authenticate(r.Context(), r.URL.Path, r.Header.Get("Authorization"))
		if err == nil {
			return tokenOf(ctx), 0, nil
		}
		status := http.StatusServiceUnavailable
		switch connect.CodeOf(err) {
		case connect.CodeUnauthenticated:
			status = http.StatusUnauthorized
		case connect.CodeResourceExhausted:
			status = http.StatusTooManyRequests
		}
		if about, ok := errors.AsType[*connect.Error](err); ok {
			err = errors.New(about.Message())
		}
		return nil, status, err
	}})
}
