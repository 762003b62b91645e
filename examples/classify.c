/* classify STUDENT.hast IMAGE.ppm: the class of a binary PPM (P6) of the network's size. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/hast_engine.h"

/* Ends the program; the system takes back what it has. */
static void stop(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static unsigned char* read_all(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END) != 0) stop(path, "cannot be read");
  const long end = ftell(file);
  unsigned char* data = end > 0 ? malloc((size_t)end + 1) : NULL;
  rewind(file);
  if (!data || fread(data, 1, (size_t)end, file) != (size_t)end)
    stop(path, "cannot be read, or is empty");
  fclose(file);
  data[end] = '\0'; /* sscanf then ends within */
  *size = (size_t)end;
  return data;
}

int main(int count, char** arguments) {
  if (count != 3) stop("usage", "classify STUDENT.hast IMAGE.ppm");
  size_t size, shape[3], width = 0, height = 0, best = 0;
  unsigned char* file = read_all(arguments[1], &size);
  char error[HAST_ENGINE_ERROR_SIZE];
  hast_engine* engine = hast_engine_open(file, size, error, sizeof error);
  if (!engine) stop(arguments[1], error);
  free(file);

  hast_engine_input_shape(engine, shape);
  unsigned char* image = read_all(arguments[2], &size);
  int start = 0; /* of the pixels: one white space behind the header */
  sscanf((const char*)image, "P6 %zu %zu 255%n", &width, &height, &start);
  if (!start || shape[0] != 3 || height != shape[1] || width != shape[2] ||
      size != (size_t)start + 1 + 3 * width * height)
    stop(arguments[2], "is not a P6 image of the size that the network takes");
  float* logits = malloc(hast_engine_classes(engine) * sizeof *logits);
  if (!logits || hast_engine_run_pixels(engine, image + start + 1, 1, logits, 1) != HAST_ENGINE_OK)
    stop("run", "failed");
  for (size_t i = 1; i < hast_engine_classes(engine); ++i)
    best = logits[i] > logits[best] ? i : best;
  const char* name = hast_engine_class_name(engine, best);
  printf("%zu %s %g\n", best, name ? name : "", logits[best]);
  free(logits);
  free(image);
  hast_engine_close(engine);
  return 0;
}
