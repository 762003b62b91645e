// CPU kernel of plateau.h.
#include "plateau.h"

namespace hast {
inline namespace HAST_BACKEND {

const char* plateau_step(const PlateauStepArgs& args) {
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    step_plateau<decltype(element)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
