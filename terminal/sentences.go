package terminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp/syntax"
	"strings"
	"syscall"
)

// mostErrors bounds how many parts of an error are looked at.
const mostErrors = 1000

// Sentences is the text of an error in which what the operating system and Go's libraries say of files, connections and expressions is said in words:
// "there is no shop.yaml" for "open shop.yaml: no such file or directory". text is what is shown of err.
func Sentences(err error, text string) string {
	left := mostErrors
	eachError(err, &left, func(err error) {
		if said := sentence(err); said != "" {
			text = strings.ReplaceAll(text, err.Error(), said)
		}
	})
	return text
}

// eachError visits an error and all that it wraps, the outermost first.
func eachError(err error, left *int, visit func(error)) {
	if *left--; err == nil || *left < 0 {
		return
	}
	visit(err)
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			eachError(one, left, visit)
		}
	case interface{ Unwrap() error }:
		eachError(e.Unwrap(), left, visit)
	}
}

// sentence is an error of Go's libraries in words, "" where there are none for it.
func sentence(err error) string {
	switch e := err.(type) {
	case *fs.PathError:
		return aboutFile(e.Op, e.Path, e.Err)
	case *os.LinkError:
		return aboutFile(e.Op, e.New, e.Err)
	case *url.Error:
		if said := sentence(e.Err); said != "" {
			return said
		}
	case *net.OpError:
		return aboutConnection(e)
	case *syntax.Error:
		return fmt.Sprintf("%s in %q", e.Code, e.Expr)
	case *json.SyntaxError:
		if strings.HasPrefix(e.Error(), "unexpected end") {
			return "this is no JSON: it ends too early"
		}
		return fmt.Sprintf("this is no JSON: %s at byte %d", strings.TrimSuffix(e.Error(), " looking for beginning of value"), e.Offset)
	case *json.UnmarshalTypeError:
		return aboutType(e)
	}
	return ""
}

// aboutType says which JSON value is of a wrong type, without the names of Go's types.
func aboutType(e *json.UnmarshalTypeError) string {
	want := "something else"
	if e.Type != nil {
		switch e.Type.Kind() {
		case reflect.Bool:
			want = "true or false"
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			want = "a whole number"
		case reflect.Float32, reflect.Float64:
			want = "a number"
		case reflect.String:
			want = "a text"
		case reflect.Slice, reflect.Array:
			want = "a list"
		case reflect.Map, reflect.Struct:
			want = "an object"
		}
	}
	where := ""
	if e.Field != "" {
		where = e.Field + ": "
	}
	return fmt.Sprintf("%sthe JSON at byte %d is of the type %s, and %s is wanted", where, e.Offset, e.Value, want)
}

func aboutFile(op, path string, err error) string {
	path = filepath.Clean(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && op == "open" && !isFolder(filepath.Dir(path)):
		return fmt.Sprintf("there is no folder %s for %s", filepath.Dir(path), filepath.Base(path))
	case errors.Is(err, fs.ErrNotExist):
		return "there is no " + path
	case errors.Is(err, fs.ErrPermission) && (op == "open" || op == "stat" || op == "lstat" || op == "read"):
		return fmt.Sprintf("%s is not for this user: permission denied", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s cannot be changed by this user: permission denied", path)
	case errors.Is(err, syscall.EISDIR):
		return path + " is a folder, and a file is wanted"
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Sprintf("there is no %s: a part of that path is a file", path)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Sprintf("the disk that %s is on is full", path)
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("%s is on a file system that can only be read", path)
	}
	return ""
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func aboutConnection(e *net.OpError) string {
	at := "that address"
	if e.Addr != nil {
		at = e.Addr.String()
	}
	unknown, isName := errors.AsType[*net.DNSError](e.Err)
	switch {
	case e.Op == "listen" && errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("%s is in use: another process listens there", at)
	case e.Op == "listen" && errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("%s is not for this user: ports below 1024 may want root, or CAP_NET_BIND_SERVICE", at)
	case isName && unknown.IsNotFound:
		return fmt.Sprintf("there is no host %s", unknown.Name)
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return "nothing listens at " + at
	case errors.Is(e.Err, fs.ErrNotExist):
		return fmt.Sprintf("there is no socket %s", at)
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("the socket %s is not for this user", at)
	case e.Op == "dial" && (e.Timeout() || errors.Is(e.Err, context.DeadlineExceeded)):
		return fmt.Sprintf("%s does not answer", at)
	}
	return ""
}
