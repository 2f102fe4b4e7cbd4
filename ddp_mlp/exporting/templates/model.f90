! @title@
!
@about@
!
! Build:      gfortran -O3 -march=native -c @file@.f90    Fortran 2008, no library, no heap, @state@: thread-safe
! Self-test:  gfortran -O3 @file@.f90 @file@_selftest.f90 && ./a.out
!
@variables@

module @module@
    use, intrinsic :: iso_fortran_env, only: @kinds@
    implicit none
    private
    public :: predict_one, predict_many, features, outputs@public@

    integer, parameter :: features = @features@, outputs = @outputs@

    integer, parameter :: wp = @wp@
    integer, parameter :: layers = @layers@
    integer, parameter :: width(0:layers) = [@widths@]
    integer, parameter :: widest = @widest@ ! the largest width, rounded up to whole panels
    integer, parameter :: lanes = @lanes@ ! outputs of a panel: W is stored panel by panel, each (lanes, inputs), zeros behind
    integer, parameter :: group = 8 ! rows that a panel is multiplied by at a time
    integer, parameter :: groups = @groups@ ! that a block has: a panel stays in the cache for all of them
    integer, parameter :: chunk = @chunk@ ! inputs whose products are added one after the other; sums of chunks after that
    ! Where W and b begin in the weights:
    integer, parameter :: at_w(layers) = [@at_w@]
    integer, parameter :: at_b(layers) = [@at_b@]@bits@
@names@
@weights@
@standardization@@target@
contains

    !> Set y to the outputs of one row of inputs x. An input that is not finite gives outputs that are not.
    pure recursive subroutine predict_one(x, y)
        real(real64), intent(in) :: x(features)
        real(real64), intent(out) :: y(outputs)
        real(wp) :: a(widest), z(widest)
        integer :: i, j, l, n, p, panels, stride
@guard@
        do i = 1, features ! 0 * x is NaN where x is infinite: no function hides that
            a(i) = @standardized_one@
        end do@settled_one@
        do l = 1, layers
            stride = width(l - 1) * lanes
            panels = (width(l) + lanes - 1) / lanes
            z(1:panels * lanes) = 0
            do i = 1, width(l - 1), chunk
                n = min(chunk, width(l - 1) - i + 1)
                do p = 1, panels / 4
                    call multiply_row_4(n, width(l - 1), weights(at_w(l) + (p - 1) * 4 * stride + (i - 1) * lanes), &
                        a(i), z((p - 1) * 4 * lanes + 1))
                end do
                do p = panels - mod(panels, 4) + 1, panels
                    call multiply_row(n, weights(at_w(l) + (p - 1) * stride + (i - 1) * lanes), &
                        a(i), z((p - 1) * lanes + 1))
                end do
            end do
            do j = 1, panels * lanes
                z(j) = z(j) + weights(at_b(l) + j - 1)
            end do@activate_one@@settle_one@
            if (l < layers) a(1:panels * lanes) = z(1:panels * lanes)
        end do
        call finish(z(1:outputs), y)
    end subroutine

    !> Set y(:, r) to the outputs of the inputs x(:, r), r = 1 … rows: as predict_one, only faster. A row
    !> has the same bits in whatever company it is computed.
    pure recursive subroutine predict_many(rows, x, y)
        integer, intent(in) :: rows
        real(real64), intent(in) :: x(features, rows)
        real(real64), intent(out) :: y(outputs, rows)
        real(wp) :: a(group, widest, groups), z(group, widest, groups)
        integer :: start, block, used, r, i, g, k
@guard@
        start = 0
        do while (start < rows)
            block = min(rows - start, group * groups)
            used = (block + group - 1) / group
            do g = 1, used
                do k = 1, group
                    r = start + min((g - 1) * group + k, block) ! a last group is filled up
                    do i = 1, features
                        a(k, i, g) = @standardized_many@
                    end do
                end do
            end do@settled_many@
            call forward(used, a, z)
            do r = 1, block
                call finish(z(mod(r - 1, group) + 1, 1:outputs, (r - 1) / group + 1), y(:, start + r))
            end do
            start = start + block
        end do
    end subroutine
@label@
    !> Set z to the output layer's z of some groups of rows that stand, standardized, in a; a is used up.
    pure recursive subroutine forward(used, a, z)
        integer, intent(in) :: used
        real(wp), intent(inout) :: a(group, widest, groups)
        real(wp), intent(out) :: z(group, widest, groups)
        real(wp) :: tiles(lanes, group, groups)
        integer :: l, first, g, i, j, r, n

        do l = 1, layers
            do first = 1, width(l), lanes
                tiles(:, :, 1:used) = 0
                do i = 1, width(l - 1), chunk
                    n = min(chunk, width(l - 1) - i + 1)
                    do g = 1, used
                        call multiply(n, weights(at_w(l) + (first - 1) * width(l - 1) + (i - 1) * lanes), &
                            a(1, i, g), tiles(1, 1, g))
                    end do
                end do
                do g = 1, used
                    do r = 1, group
                        do j = 1, lanes
                            tiles(j, r, g) = tiles(j, r, g) + weights(at_b(l) + first + j - 2)
                        end do
                    end do@activate_many@
                    do j = 1, min(lanes, width(l) - first + 1)
                        do r = 1, group
                            z(r, first + j - 1, g) = tiles(j, r, g)
                        end do
                    end do
                end do
            end do
            if (l < layers) then@settle_many@
                do g = 1, used
                    do j = 1, width(l)
                        do r = 1, group
                            a(r, j, g) = z(r, j, g)
                        end do
                    end do
                end do
            end if
        end do
    end subroutine

    !> Add w a to the tile of one panel, for n inputs.
    pure subroutine multiply(n, w, a, tile)
        integer, intent(in) :: n
        real(wp), intent(in) :: w(lanes, n), a(group, n)
        real(wp), intent(inout) :: tile(lanes, group)
        real(wp) :: v, s1, s2, s3, s4, s5, s6, s7, s8
        integer :: i, j

        do j = 1, lanes
            s1 = 0
            s2 = 0
            s3 = 0
            s4 = 0
            s5 = 0
            s6 = 0
            s7 = 0
            s8 = 0
            do i = 1, n
                v = w(j, i)
                s1 = s1 + a(1, i) * v
                s2 = s2 + a(2, i) * v
                s3 = s3 + a(3, i) * v
                s4 = s4 + a(4, i) * v
                s5 = s5 + a(5, i) * v
                s6 = s6 + a(6, i) * v
                s7 = s7 + a(7, i) * v
                s8 = s8 + a(8, i) * v
            end do
            tile(j, 1) = tile(j, 1) + s1
            tile(j, 2) = tile(j, 2) + s2
            tile(j, 3) = tile(j, 3) + s3
            tile(j, 4) = tile(j, 4) + s4
            tile(j, 5) = tile(j, 5) + s5
            tile(j, 6) = tile(j, 6) + s6
            tile(j, 7) = tile(j, 7) + s7
            tile(j, 8) = tile(j, 8) + s8
        end do
    end subroutine

    !> Add w a to the z of one panel, for n inputs of one row.
    pure subroutine multiply_row(n, w, a, z)
        integer, intent(in) :: n
        real(wp), intent(in) :: w(lanes, n), a(n)
        real(wp), intent(inout) :: z(lanes)
        real(wp) :: s
        integer :: i, j

        do j = 1, lanes
            s = 0
            do i = 1, n
                s = s + a(i) * w(j, i)
            end do
            z(j) = z(j) + s
        end do
    end subroutine

    !> The same for four panels, each of n_prev inputs, whose sums do not wait for one another.
    pure subroutine multiply_row_4(n, n_prev, w, a, z)
        integer, intent(in) :: n, n_prev
        real(wp), intent(in) :: w(lanes, n_prev, *), a(n)
        real(wp), intent(inout) :: z(lanes, 4)
        real(wp) :: s1, s2, s3, s4
        integer :: i, j

        do j = 1, lanes
            s1 = 0
            s2 = 0
            s3 = 0
            s4 = 0
            do i = 1, n
                s1 = s1 + a(i) * w(j, i, 1)
                s2 = s2 + a(i) * w(j, i, 2)
                s3 = s3 + a(i) * w(j, i, 3)
                s4 = s4 + a(i) * w(j, i, 4)
            end do
            z(j, 1) = z(j, 1) + s1
            z(j, 2) = z(j, 2) + s2
            z(j, 3) = z(j, 3) + s3
            z(j, 4) = z(j, 4) + s4
        end do
    end subroutine

@exact@@activate@
@activation@
    !> Turn the output layer's z of one row into y.
    pure subroutine finish(z, y)
        real(wp), intent(in) :: z(:)
        real(real64), intent(out) :: y(outputs)
@output@
    end subroutine
@loading@
end module
