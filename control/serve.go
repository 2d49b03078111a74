package control

import (
	"context"
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gatehouse/panics"
)

// Serve is gatehouse control serve: it logs to logs as JSON, prints on w how control is reached, with the first admin token,
// and serves until ctx ends.
func Serve(ctx context.Context, with Config, w, logs io.Writer) error {
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	with.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(zapcore.AddSync(logs)), zap.InfoLevel))
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
