! A flame runs along a rod: heat is conducted, and a reaction, whose rate a trained network tells, sets heat free.
!
!     dT/dt = conduction d²T/dx² + heat w(T, c),   dc/dt = -w(T, c)
!
! Every rank has a piece of the rod. In each step it asks the network for all of its cells at once. A cell's rate has the
! same bits in whatever company it is computed, so the rod ends in the same state on any number of ranks.

program flame
    use, intrinsic :: iso_fortran_env, only: real64, int64
    use mpi_f08
    use rate, only: predict_many, features, outputs
    implicit none

    integer, parameter :: cells = 600
    real(real64), parameter :: dx = 1e-3_real64, dt = 1e-3_real64, conduction = 2e-4_real64, heat = 500
    real(real64), allocatable :: T(:), c(:), x(:, :), w(:, :), whole(:)
    integer, allocatable :: counts(:), starts(:)
    integer :: rank, size, lo, hi, n, step, steps, k, left, right
    character(len=12) :: argument

    steps = 4000
    if (command_argument_count() > 0) then
        call get_command_argument(1, argument)
        read (argument, *) steps
    end if
    call MPI_Init()
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call MPI_Comm_size(MPI_COMM_WORLD, size)
    starts = [(cells * k / size, k = 0, size - 1)]
    counts = [(cells * (k + 1) / size - cells * k / size, k = 0, size - 1)]
    lo = starts(rank + 1) + 1
    n = counts(rank + 1)
    hi = lo + n - 1
    left = merge(MPI_PROC_NULL, rank - 1, rank == 0)
    right = merge(MPI_PROC_NULL, rank + 1, rank == size - 1)

    allocate (T(0:n + 1), c(n), x(features, n), w(outputs, n), whole(cells))
    T = 300
    c = 1
    where ([(k, k=lo - 1, hi + 1)] <= 20) T = 1200 ! ignited at one end

    do step = 1, steps
        call MPI_Sendrecv(T(1), 1, MPI_DOUBLE_PRECISION, left, 0, T(n + 1), 1, MPI_DOUBLE_PRECISION, right, 0, &
            MPI_COMM_WORLD, MPI_STATUS_IGNORE)
        call MPI_Sendrecv(T(n), 1, MPI_DOUBLE_PRECISION, right, 1, T(0), 1, MPI_DOUBLE_PRECISION, left, 1, &
            MPI_COMM_WORLD, MPI_STATUS_IGNORE)
        if (rank == 0) T(0) = T(1)
        if (rank == size - 1) T(n + 1) = T(n)

        x(1, :) = T(1:n)
        x(2, :) = c
        call predict_many(n, x, w) ! the network, where the expensive function would stand
        w(1, :) = min(max(w(1, :), 0.0_real64), c / dt)

        T(1:n) = T(1:n) + dt * (conduction / dx**2 * (T(0:n - 1) - 2 * T(1:n) + T(2:n + 1)) + heat * w(1, :))
        c = c - dt * w(1, :)
    end do

    call MPI_Gatherv(T(1:n), n, MPI_DOUBLE_PRECISION, whole, counts, starts, MPI_DOUBLE_PRECISION, 0, MPI_COMM_WORLD)
    if (rank == 0) then
        print '(a, i0, a, f8.2, a, z16.16)', 'burnt ', count(whole > 700), ' cells, hottest ', maxval(whole), &
            ' K, bits ', iparity(transfer(whole, [0_int64]))
    end if
    call MPI_Finalize()
end program
