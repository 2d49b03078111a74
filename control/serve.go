package control

import (
	"context"
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gatehouse/panics"
)

// Log says how Serve logs.
type Log struct {
	Level  string // debug, info, warn or error; "": info
	Format string // json or console; "": json
	To     io.Writer
}

func (l Log) logger() (*zap.Logger, error) {
	level := zap.InfoLevel
	switch l.Level {
	case "", "debug", "info", "warn", "error":
		if err := level.UnmarshalText([]byte(l.Level)); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("--log-level %q: there are debug, info, warn and error", l.Level)
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(encoding)
	switch l.Format {
	case "", "json":
	case "console":
		encoder = zapcore.NewConsoleEncoder(encoding)
	default:
		return nil, fmt.Errorf("--log-format %q: there are json and console", l.Format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(l.To)), level)), nil
}

// Serve is gatehouse control serve: it prints on w how control is reached, with the first admin token, and serves until ctx
// ends.
func Serve(ctx context.Context, with Config, w io.Writer, log Log) error {
	logger, err := log.logger()
	if err != nil {
		return err
	}
	with.Logger = logger
	panics.SetReporter(func(e panics.Event) {
		with.Logger.Error("a panic was caught", zap.String("where", e.Where), zap.Any("value", e.Value), zap.ByteString("stack", e.Stack), zap.Uint64("more", e.More))
	})
	defer panics.SetReporter(nil)
	s, err := New(ctx, with)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "control listens at https://%s\nits authority is %s, with the pin %s\n", s.Addr(), s.AuthorityFile(), s.Pin())
	if text := s.AdminToken(); text != "" {
		fmt.Fprintf(w, "\nthe admin token, which is shown this once and is valid for 90 days:\n\n  export GATEHOUSE_CONTROL_TOKEN=%s\n\n", text)
	}
	return s.Run(ctx)
}
