! The self-test of @file@.f90: rows, and what ddp_mlp's predict gives for them.
!
!     gfortran -O3 @file@.f90 @file@_selftest.f90 && ./a.out

program @module@_selftest
    use, intrinsic :: iso_fortran_env, only: real64
    use @module@, only: predict_one, predict_many, features, outputs@use_load@
    implicit none

    integer, parameter :: tests = @tests@
    real(real64), parameter :: allowed = @allowed@
    real(real64), save :: test_x(features * tests), test_y(outputs * tests), test_size(outputs), y(outputs, tests, 2)
    integer :: r@declare_load@

@test_x@
@test_y@
@test_size@
@load@
    call predict_many(tests, test_x, y(:, :, 1))
    do r = 1, tests
        call predict_one(test_x((r - 1) * features + 1:r * features), y(:, r, 2))
    end do
    print '(a, i0, a, es8.1, a, es8.1, a, es8.1)', &
        '@module@: ', tests, ' rows, largest difference ', &
        difference(y(:, :, 1)), ' (many), ', difference(y(:, :, 2)), ' (one), allowed ', allowed
    if (.not. (difference(y(:, :, 1)) <= allowed .and. difference(y(:, :, 2)) <= allowed)) error stop 'FAILED'
    print '(a)', 'passed'

contains

    !> Return the largest difference to the stored answers, as a part of the output's size: its largest value, or its scale.
    real(real64) function difference(found)
        real(real64), intent(in) :: found(outputs, tests)
        integer :: k, r

        difference = 0
        do r = 1, tests
            do k = 1, outputs
                if (found(k, r) /= found(k, r)) difference = huge(difference)
                difference = max(difference, abs(found(k, r) - test_y((r - 1) * outputs + k)) / test_size(k))
            end do
        end do
    end function

end program
