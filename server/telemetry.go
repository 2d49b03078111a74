package server

import (
	"errors"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gatehouse/config"
)

func validateLog(c config.Log) error {
	var errs []error
	if l, err := zapcore.ParseLevel(c.Level); err != nil || l < zapcore.DebugLevel || l > zapcore.ErrorLevel {
		errs = append(errs, config.Wrong("log.level", "%q is none of debug, info, warn, error", c.Level))
	}
	if c.Format != "json" && c.Format != "console" {
		errs = append(errs, config.Wrong("log.format", "%q is neither json nor console", c.Format))
	}
	return errors.Join(errs...)
}

func setLevel(c config.Log, level zap.AtomicLevel) {
	if l, err := zapcore.ParseLevel(c.Level); err == nil {
		level.SetLevel(l)
	}
}

// build makes the operators' log: on standard error, in JSON or for people. It is usable also where it is not as wished.
func buildLog(c config.Log, level zap.AtomicLevel) (*zap.Logger, error) {
	setLevel(c, level)
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if c.Format == "console" {
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	core := zapcore.NewSamplerWithOptions(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level), time.Second, 50, 100)
	return zap.New(core), validateLog(c)
}
