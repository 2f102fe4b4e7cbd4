
    pure real(wp) function polynomial(c, x)
        real(wp), intent(in) :: c(:), x
        integer :: i

        polynomial = times(x, c(size(c)))
        do i = size(c) - 1, 2, -1
            polynomial = times(polynomial + c(i), x)
        end do
        polynomial = polynomial + c(1)
    end function
