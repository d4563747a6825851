// In the place of mpi_bootstrap.cc in a build without MPI.
#include "fabric/bootstrap.h"

namespace lombard {

absl::StatusOr<std::unique_ptr<Bootstrap>> MakeMpiBootstrap() {
  return absl::UnimplementedError(
      "started by mpirun or PMIx, but built without MPI: build with -DLOMBARD_MPI=ON, or start with srun "
      "--mpi=none or --rank, --size and "
      "--rendezvous");
}

}  // namespace lombard
