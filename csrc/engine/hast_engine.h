/* Runs a student.hast from C, or from whatever can call C.
 *
 *   char error[HAST_ENGINE_ERROR_SIZE];
 *   hast_engine* engine = hast_engine_open(data, size, error, sizeof error);
 *   if (!engine) { fprintf(stderr, "%s\n", error); exit(1); }
 *   hast_engine_run_pixels(engine, pixels, 1, logits, 1);
 *   hast_engine_close(engine);
 *
 * An engine does not change once it is open: several threads may run the same one at once, and it
 * may be closed when all are back. C89; link with a C++ compiler. */
#ifndef HAST_ENGINE_H
#define HAST_ENGINE_H

#include <stddef.h>

#if defined(__GNUC__)
#define HAST_ENGINE_API __attribute__((visibility("default")))
#else
#define HAST_ENGINE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hast_engine hast_engine;

/* What hast_engine_run returns. */
enum hast_engine_status {
  HAST_ENGINE_OK = 0,
  HAST_ENGINE_BAD_ARGUMENT = 1,  /* a null pointer, a negative number of threads, too many images */
  HAST_ENGINE_OUT_OF_MEMORY = 2, /* the logits are undefined */
  HAST_ENGINE_FAILED = 3         /* no thread could be started, or the like; as above */
};

/* Room that holds nearly every message of hast_engine_open; longer ones are cut. */
#define HAST_ENGINE_ERROR_SIZE 512

/* The network of a file in memory: `size` bytes at `data`, which may be freed afterwards.
 *
 * Null where the file is damaged, no student.hast, or memory is short. `error` (of `error_size`
 * bytes, or null and 0) then holds the reason, one line of UTF-8 that ends with a zero byte;
 * otherwise it is an empty text. */
HAST_ENGINE_API hast_engine* hast_engine_open(const void* data, size_t size, char* error,
                                              size_t error_size);

/* Frees it; null is allowed. */
HAST_ENGINE_API void hast_engine_close(hast_engine* engine);

/* Channels, height and width of an image. */
HAST_ENGINE_API void hast_engine_input_shape(const hast_engine* engine, size_t shape[3]);

/* The number of classes: logits per image. */
HAST_ENGINE_API size_t hast_engine_classes(const hast_engine* engine);

/* The name of a class in UTF-8, valid until the engine is closed; null where the file has no names
 * or `index` is not below hast_engine_classes. */
HAST_ENGINE_API const char* hast_engine_class_name(const hast_engine* engine, size_t index);

/* Logits [count, classes] of normalised images [count, channels, height, width], both contiguous.
 *
 * `threads`: how many run, 0: as many as the machine has. Returns a hast_engine_status. */
HAST_ENGINE_API int hast_engine_run(const hast_engine* engine, const float* images, size_t count,
                                    float* logits, int threads);

/* The same of pixels from 0 to 255, [count, height, width, channels] as decoders give them; the
 * engine normalises with the mean and the standard deviation that the file has. */
HAST_ENGINE_API int hast_engine_run_pixels(const hast_engine* engine, const unsigned char* pixels,
                                           size_t count, float* logits, int threads);

#ifdef __cplusplus
}
#endif

#endif
