package scim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"gatehouse/control/store"
	"gatehouse/directory"
)

// failure is an error document of RFC 7644, section 3.12.
type failure struct {
	status int
	typ    string // scimType; "": none
	detail string
}

func (f *failure) Error() string { return f.detail }

func (f *failure) document() map[string]any {
	out := map[string]any{"schemas": []any{urnError}, "status": strconv.Itoa(f.status), "detail": f.detail}
	if f.typ != "" {
		out["scimType"] = f.typ
	}
	return out
}

func fail(status int, typ, format string, args ...any) error {
	return &failure{status, typ, fmt.Sprintf(format, args...)}
}

func invalid(typ, format string, args ...any) error {
	return fail(http.StatusBadRequest, typ, format, args...)
}

// asFailure is the document of an error. known is false where its text is not for the client.
func asFailure(err error) (f *failure, known bool) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f, true
	}
	change := (*directory.ChangeError)(nil)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &failure{http.StatusNotFound, "", err.Error()}, true
	case errors.Is(err, store.ErrTaken):
		return &failure{http.StatusConflict, "uniqueness", err.Error()}, true
	case errors.Is(err, store.ErrOwned):
		return &failure{http.StatusConflict, "", err.Error()}, true
	case errors.Is(err, store.ErrBusy):
		return &failure{http.StatusTooManyRequests, "", err.Error()}, true
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &failure{http.StatusServiceUnavailable, "", "control cannot write now: try again"}, false
	case errors.Is(err, store.ErrInvalid), errors.Is(err, directory.ErrInvalid), errors.As(err, &change):
		return &failure{http.StatusBadRequest, "invalidValue", err.Error()}, true
	}
	return &failure{http.StatusInternalServerError, "", "an error of control itself: its log has more"}, false
}
